import { readFile, writeFile } from 'node:fs/promises'
import { dirname, join } from 'node:path'
import fc from 'fast-check'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { execLine, pathWord, plainText } from '../../scripts/schedule/escape.ts'
import { bootHost, type TestHost } from '../support/host.ts'
import { DIR_JOB, TOLD_AS_ROOT, unitsOf } from '../support/units.ts'

// What a systemd that runs makes of what units say.

const UNITS = '/etc/systemd/system'
/** With what is special to systemd in a path, too. */
const PROBE = '/srv/100% $x; probe/show'

let host: TestHost

beforeAll(async () => {
  host = await bootHost({ suite: 'bookworm' })
  await host.run(['mkdir', '-p', dirname(PROBE)])
  await writeFile(join(host.root, PROBE), '#!/bin/sh\nout=$1 && shift\nprintf "%s\\0" "$@" >"$out"\n')
  await host.run(['chmod', '0755', PROBE])
}, 300_000)

afterAll(() => host?.[Symbol.asyncDispose]())

/** Each is an argument that somebody got wrong once. */
const NAMED = [
  // All control characters, and the whole of ASCII.
  Array.from({ length: 0x9f }, (_, code) => String.fromCodePoint(code + 1)),
  ['', ' ', ';', '; ', '\\;', '%', '%%', '%i', '%n %h', '$', '$$', '$HOME', '${HOME}', '$$HOME', '#'],
  ['\\', '\\\\', 'a\\', '\\n', '\\x41', String.raw`\u00e9`, '-x', '@x', ':x', '+x', '!x', '!!x', '|x', '~x'],
  ['a\nb', 'a\\\nb', '\r\n', '\n[Service]\nUser=root', 'a  b', ' a ', '"a b"', `'a b'`, `a"b'c`, 'größer'],
  [
    '🐘',
    '\u2028',
    '\uFEFF',
    '\uFFFD',
    '\uFFFE',
    '\u{1FFFF}',
    '\uFDD0',
    'e\u0301',
    '\u202E',
    'x'.repeat(5000),
  ],
].flat()

const SHORT = NAMED.filter(({ length }) => length < 200)

/** Whatever an argument can be. */
const argument = fc
  .oneof(
    fc.string({ unit: 'binary', maxLength: 30 }),
    fc.string({ unit: fc.constantFrom(...SHORT), maxLength: 12 }),
  )
  .filter((text) => text.isWellFormed() && !text.includes('\0'))

test('ExecStart: whatever the arguments are: the program gets them as they are', async () => {
  const seed = Date.now()
  const values = [...NAMED, ...fc.sample(argument, { numRuns: 2000, seed })]
  const units: string[][] = []
  for (let at = 0; at < values.length; at += 250) units.push(values.slice(at, at + 250))
  for (const [index, args] of units.entries()) {
    const line = execLine([PROBE, `/srv/probe-${index}`, ...args])
    await writeUnit(`probe-${index}.service`, ['[Service]', 'Type=oneshot', `ExecStart=${line}`])
  }
  await host.run('systemctl daemon-reload')
  await host.run(['systemctl', 'start', ...units.map((_, index) => `probe-${index}.service`)])
  for (const [index, args] of units.entries()) {
    const got = (await readFile(join(host.root, `srv/probe-${index}`), 'utf8')).split('\0').slice(0, -1)
    expect(got, `seed ${seed}`).toEqual(args)
  }
  expect(await complaints()).toBe('')
})

test('Description: whatever the text is: is shown in one line, and means nothing', async () => {
  const seed = Date.now()
  const texts = [...SHORT, ...fc.sample(argument, { numRuns: 100, seed })]
  const names = texts.map((_, index) => `text-${index}.service`)
  for (const [index, text] of texts.entries()) {
    const lines = ['[Unit]', `Description=Howdah: ${plainText(text)}`, '[Service]', 'ExecStart=/bin/true']
    await writeUnit(names[index]!, lines)
  }
  await host.run('systemctl daemon-reload')
  const argv = ['call', MANAGER[0], MANAGER[1], 'org.freedesktop.systemd1.Manager', 'ListUnitsByNames', 'as']
  const [units] = (await busctl([...argv, String(names.length), ...names])) as [string[][]]
  const shown = new Map(units.map(([name, description, loaded]) => [name, [description, loaded]]))
  const oneLine = (text: string) => text.replaceAll(/[\p{Cc}\p{Noncharacter_Code_Point}]+/gu, ' ')
  expect(
    names.map((name) => shown.get(name)),
    `seed ${seed}`,
  ).toEqual(texts.map((text) => [`Howdah: ${oneLine(text)}`.replace(/ +$/, ''), 'loaded']))
  expect(await complaints()).toBe('')
})

test('ReadWritePaths, RequiresMountsFor: whatever the path is: it is said, or refused before', async () => {
  const seed = Date.now()
  const paths = [...SHORT, ...fc.sample(argument, { numRuns: 300, seed })].flatMap(sayable)
  expect(paths.length).toBeGreaterThan(100)
  await writeUnit('paths.service', [
    '[Unit]',
    ...paths.map((path) => `RequiresMountsFor=${pathWord('', path)}`),
    '[Service]',
    'ExecStart=/bin/true',
    ...paths.map((path) => `ReadWritePaths=${pathWord('-', path)}`),
  ])
  await host.run('systemctl daemon-reload')
  const read = async (part: string, property: string) => {
    const place = [MANAGER[0], `${MANAGER[1]}/unit/paths_2eservice`, `org.freedesktop.systemd1.${part}`]
    return (await busctl(['get-property', ...place, property])) as string[]
  }
  const plain = paths.map((path) => path.replaceAll(/\/+/g, '/'))
  expect(await read('Service', 'ReadWritePaths'), `seed ${seed}`).toEqual(plain.map((path) => `-${path}`))
  expect(new Set(await read('Unit', 'RequiresMountsFor')), `seed ${seed}`).toEqual(new Set(plain))
  expect(await complaints()).toBe('')
})

test.each([
  ['a backslash', 'ReadWritePaths="/srv/a\\\\b\\"', /Failed to extract first word, ignoring/],
  ['"..", which would be missing from the sandbox', 'ReadWritePaths=/srv/../etc', /is not normalized/],
  ['a code point that is no character', 'ExecStart=/bin/true \uFFFE', /[^]/],
  ['a quote in the path of a program', `ExecStart="/bin/it's"`, /special characters/],
])('what is refused before: %s: systemd passes over it, and goes on', async (_title, line, message) => {
  await host.run('journalctl --quiet --rotate --vacuum-time=1s')
  await writeUnit('refused.service', ['[Service]', 'Type=oneshot', 'ExecStart=/bin/true', line])
  await host.run('systemctl daemon-reload; systemctl show refused.service')
  expect(await complaints()).toMatch(message)
})

/** Everybody may write to all of these folders: what says no is the sandbox. */
const ATTEMPTS = `
exec >/var/lib/howdah/can 2>/dev/null
try() { "$@" >/dev/null && echo "$*"; }
for folder in /etc /usr /opt /root /home /boot /var /var/log /var/lib/postgresql /srv; do try touch $folder/x; done
try touch "/srv/back up/100%/x"; try touch /var/lib/howdah/x; try touch /run/lock/howdah/x
try touch /tmp/x; try touch "$CACHE_DIRECTORY/x"
try cat /srv/secret; try ls /tmp/of-others; try unshare --user true; try mount -t tmpfs none /mnt
try hostname other; try sysctl -q kernel.panic=1; try mknod /tmp/node b 1 1; try test -e /dev/kmsg
try test -e /proc/1/comm; try test -r /proc/meminfo; try kill -0 1
end_another() { runuser -u nobody -- sleep 60 & sleep 0.2; kill $! && ! wait $!; }
try end_another
`

test.each(['postgres', 'root'])(
  'the sandbox of a job, as %s: it writes where it is to, and nowhere else',
  async (user) => {
    const folders = [
      '/home',
      '/var/lib/postgresql',
      '/srv/back up/100%',
      '/var/lib/howdah',
      '/run/lock/howdah',
    ]
    await host.run(['mkdir', '-p', '/tmp/of-others', ...folders])
    await host.run(
      'id postgres >/dev/null 2>&1 || useradd --system postgres; echo x >/srv/secret; chmod 600 /srv/secret',
    )
    await host.run(['chmod', '-R', '0777', '/etc', '/opt', '/var/log', ...folders])
    const program = '/srv/howdah'
    await host.run(['mkdir', '-p', `${program}/scripts`])
    await writeFile(join(host.root, program, 'scripts/howdah'), `#!/bin/bash${ATTEMPTS}true\n`, {
      mode: 0o755,
    })
    const [unit] = unitsOf([DIR_JOB, user === 'root' ? 'user = "root"\n' : ''], { program })
    await writeUnit(unit!.name, [unit!.content.replace(/^Exec(StartPre|StopPost)=.*\n/gm, '')])
    await host.run(`systemctl daemon-reload; systemctl start ${unit!.name}`)
    const can = await readFile(join(host.root, '/var/lib/howdah/can'), 'utf8')
    expect(can.trimEnd().split('\n')).toEqual([
      'touch /srv/back up/100%/x',
      'touch /var/lib/howdah/x',
      'touch /run/lock/howdah/x',
      'touch /tmp/x',
      `touch /var/cache/howdah/${user}/x`,
      ...(user === 'root' ? ['cat /srv/secret'] : []),
      'test -e /proc/1/comm', // it looks for the server's processes,
      'test -r /proc/meminfo', // and for how much memory there is
      ...(user === 'root' ? ['kill -0 1', 'end_another'] : []),
    ])
  },
)

test('the sandbox of an alert of root: it can become the user by whom everybody else is told', async () => {
  await host.run('id postgres >/dev/null 2>&1 || useradd --system postgres')
  const { stdout } = await host.run('id -u postgres; id -g postgres')
  const [uid, gid] = stdout.split('\n')
  // What become() puts before a program, there where this user is.
  const becomePostgres = `setpriv --no-new-privs --reuid=${uid} --regid=${gid} --init-groups --`
  const program = '/srv/howdah-alert'
  await host.run(['mkdir', '-p', `${program}/scripts`, '/var/lib/howdah'])
  await writeFile(
    join(host.root, program, 'scripts/howdah'),
    `#!/bin/sh\nexec ${becomePostgres} id -un >/var/lib/howdah/told-by 2>&1\n`,
    { mode: 0o755 },
  )
  const units = unitsOf([DIR_JOB, TOLD_AS_ROOT], { program })
  const alert = units.find(({ name }) => name === 'howdah-alert@.service')!
  expect(alert.content).toContain('\nUser=root\n')
  await writeUnit(alert.name, [alert.content])
  await host.run('systemctl daemon-reload; systemctl start howdah-alert@test.service')
  expect(await readFile(join(host.root, '/var/lib/howdah/told-by'), 'utf8')).toBe('postgres\n')
})

const MANAGER = ['org.freedesktop.systemd1', '/org/freedesktop/systemd1'] as const

/** The answer of D-Bus, in which nothing is escaped that JSON does not. */
async function busctl(args: readonly string[]): Promise<unknown> {
  const { stdout } = await host.run(['busctl', '--json=short', ...args])
  return (JSON.parse(stdout) as { data: unknown }).data
}

/** A path of that name, unless it is refused. */
function sayable(name: string): string[] {
  const path = `/srv/${name}/x`
  try {
    pathWord('', path)
    return [path]
  } catch {
    return []
  }
}

/** What systemd wrote to its journal about what it could not make sense of. */
async function complaints(): Promise<string> {
  const argv = ['journalctl', '--no-pager', '--quiet', '--output=cat', '--priority=warning', '_PID=1']
  return (await host.run(argv)).stdout
}

async function writeUnit(name: string, lines: readonly string[]): Promise<void> {
  await writeFile(join(host.root, UNITS, name), `${lines.join('\n')}\n`)
}
