import { readFile, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { bootHost, type HostResult, type TestHost } from '../support/host.ts'
import { freePort } from '../support/port.ts'

// One Debian 12 host with a systemd of its own goes the whole way; each test goes on where the one before
// it ended.

const HOWDAH = '/srv/howdah/scripts/howdah'
const INSTALLED = '/opt/howdah/current/scripts/howdah'
const UNITS = '/etc/systemd/system'

let host: TestHost
let port: number

beforeAll(async () => {
  port = await freePort()
  host = await bootHost({ suite: 'bookworm' })
  await host.copyCheckout('/srv/howdah')
  await host.run('install -d /etc/howdah')
  await describeHost({})
  await host.run([HOWDAH, 'provision', 'apply', '--yes'], { timeoutSeconds: 470 })
  await host.run('chown root:postgres /etc/howdah/host.toml && chmod 0640 /etc/howdah/host.toml')
  await host.run('install -d -o postgres -g postgres /srv/metrics')
}, 480_000)

afterAll(() => host?.[Symbol.asyncDispose]())

describe('before anything is installed', () => {
  test('--plan: says all of it, and writes nothing', async () => {
    const { stdout } = await schedule(['install', '--plan'])
    expect(stdout).toMatch(/^\+ program \/opt\/howdah\/\d+\.\d+\.\d+-[0-9a-f]{12}$/m)
    expect(stdout).toMatch(/^\+ \/etc\/systemd\/system\/howdah-backup-nightly\.timer$/m)
    expect(stdout).toMatch(/^~ start howdah-backup-nightly\.timer$/m)
    expect((await host.run('ls -d /opt/howdah /run/howdah 2>&1 || true')).stdout).not.toMatch(/^\//m)
    expect(await unitFiles()).toBe('')
  })

  test('a host file that others can change, or that the jobs cannot read: is refused', async () => {
    await host.run('chmod 0660 /etc/howdah/host.toml')
    const writable = await schedule(['install', '--yes'], 13)
    expect(writable.stderr).toMatch(/the host file can be changed by its group \d+/)
    expect(writable.stderr).toContain('chown root:postgres /etc/howdah/host.toml && chmod 0640')
    await host.run('chmod 0600 /etc/howdah/host.toml')
    expect((await schedule(['install', '--yes'], 13)).stderr).toContain(
      'the user postgres, who runs the jobs, cannot read',
    )
    await host.run(
      'chmod 0640 /etc/howdah/host.toml && install -d -o postgres /srv/pg && cp -p /etc/howdah/host.toml /srv/pg/',
    )
    const elsewhere = await host.run([HOWDAH, 'schedule', 'install', '--yes', '-c', '/srv/pg/host.toml'], {
      okCodes: [13],
    })
    expect(elsewhere.stderr).toContain('"/srv/pg", where the host file is, can be changed by its owner')
    expect(await unitFiles()).toBe('')
  })

  test('an /etc that cannot be written to: is refused, and says what to do instead', async () => {
    await host.run('mount --bind /etc /etc && mount -o remount,bind,ro /etc')
    const { stderr } = await schedule(['install', '--yes'], 11)
    await host.run('umount /etc')
    expect(stderr).toContain('cannot write units to "/etc/systemd/system": the file system is read-only')
    expect(stderr).toContain('schedule render --out DIR')
    expect((await host.run('ls -d /opt/howdah || true')).stdout).toBe('')
  })

  test("somebody else's unit of the same name: is refused, and nothing is installed by half", async () => {
    const path = `${UNITS}/howdah-check.timer`
    await host.run(`printf '[Timer]\\nOnCalendar=daily\\n' >${path}`)
    const { stderr } = await schedule(['install', '--yes'], 42)
    expect(stderr).toContain(`"${path}" is there, and it is not of this program`)
    expect(await unitFiles()).toBe('howdah-check.timer\n')
    expect((await host.run('ls -d /opt/howdah || true')).stdout).toBe('')
    await host.run(`rm ${path}`)
  })
})

describe('install', () => {
  test('the timers run, the program is the one that is installed', { timeout: 120_000 }, async () => {
    expect((await schedule(['install', '--yes'])).stdout).toMatch(/\ninstalled\n$/)
    expect(await timers()).toEqual(['howdah-archive-check', 'howdah-backup-nightly', 'howdah-check'])
    const { stdout } = await host.run([INSTALLED, 'schedule', '--help'], {
      user: 'postgres',
      env: { HOWDAH_NO_INSTALL: '1' },
    })
    expect(stdout).toContain('Usage: schedule')
    expect((await host.run('stat -c "%a %U:%G" /run/lock/howdah /var/lib/howdah')).stdout).toBe(
      '750 postgres:postgres\n750 postgres:postgres\n',
    )
    await host.run('until systemctl is-active howdah-archive; do sleep 0.2; done', { timeoutSeconds: 30 })
  })

  test('again, by the copy too: nothing changes', async () => {
    const before = await host.run(
      `stat -c '%n %Z' ${UNITS}/howdah-* /opt/howdah/current; ls /opt/howdah; systemctl show -p MainPID howdah-archive`,
    )
    expect((await schedule(['install', '--yes'])).stdout).toBe('nothing to do\n')
    expect((await host.run([INSTALLED, 'schedule', 'install', '--yes'])).stdout).toBe('nothing to do\n')
    expect((await schedule(['diff'])).stdout).toBe('no difference\n')
    expect(
      await host.run(
        `stat -c '%n %Z' ${UNITS}/howdah-* /opt/howdah/current; ls /opt/howdah; systemctl show -p MainPID howdah-archive`,
      ),
    ).toEqual(before)
  })

  test('list: the times that systemd has', async () => {
    await host.run('systemctl start howdah-check.service')
    const { result } = JSON.parse((await schedule(['list', '--json'])).stdout) as {
      result: { jobs: { unit: string; next: string; lastTrigger: string | null }[] }
    }
    const listed = JSON.parse(
      (await host.run(['systemctl', 'list-timers', '--all', '--output=json', 'howdah-*'])).stdout,
    ) as { unit: string; next: number; last: number }[]
    const second = (time: number) => Math.floor(time / 1e6)
    expect(
      result.jobs.map(({ unit, next, lastTrigger }) => ({
        unit,
        next: Date.parse(next) / 1000,
        last: lastTrigger === null ? 0 : Date.parse(lastTrigger) / 1000,
      })),
    ).toEqual(
      expect.arrayContaining(
        listed.map(({ unit, next, last }) => ({ unit, next: second(next), last: second(last ?? 0) })),
      ),
    )
    expect(listed).toHaveLength(3)
  })

  test('a changed timer that makes up for what it missed: does not run at once', async () => {
    await host.run(`touch -d '3 days ago' /var/lib/systemd/timers/stamp-howdah-backup-nightly.timer`)
    await describeHost({ schedule: '30 3 * * *' })
    expect((await schedule(['diff'], 1)).stdout).toMatch(/^-OnCalendar=.*02:00/m)
    expect((await schedule(['install', '--yes'])).stdout).toMatch(/^~ \S+howdah-backup-nightly\.timer$/m)
    await host.run('sleep 1.5')
    expect(
      (await host.run('systemctl show -p ExecMainStartTimestamp --value howdah-backup-nightly')).stdout,
    ).toBe('\n')
    expect(
      (await host.run('systemctl show -p NextElapseUSecRealtime --value howdah-backup-nightly.timer')).stdout,
    ).toContain('03:30:00')
  })

  test('a job that is gone: its units, its stamp and what systemd knows of it go, too', async () => {
    await describeHost({ job: 'weekly' })
    await schedule(['install', '--yes'])
    expect((await host.run('ls /srv/metrics')).stdout).toMatch(
      /^howdah_archive-check\.prom\nhowdah_backup-weekly\.prom\n$/,
    )
    expect(await timers()).toEqual(['howdah-archive-check', 'howdah-backup-weekly', 'howdah-check'])
    expect(await unitFiles()).not.toContain('nightly')
    expect(
      (
        await host.run(
          `ls /var/lib/systemd/timers ${UNITS}/timers.target.wants; systemctl list-units --all 'howdah-*'`,
        )
      ).stdout,
    ).not.toContain('nightly')
    await describeHost({})
    await schedule(['install', '--yes'])
  })

  test('a unit that somebody edited: is refused, unless it may be; a drop-in stays and holds', async () => {
    const unit = `${UNITS}/howdah-backup-nightly.service`
    await host.run(
      `mkdir ${unit}.d && printf '[Service]\\nNice=7\\n' >${unit}.d/override.conf && systemctl daemon-reload`,
    )
    expect((await schedule(['install', '--yes'])).stdout).toBe('nothing to do\n')
    await host.run(`sed -i 's/^Type=oneshot/Type=oneshot\\nNice=5/' ${unit}`)
    const { stderr } = await schedule(['install', '--yes'], 40)
    expect(stderr).toContain(`somebody has changed ${unit} by hand`)
    expect(stderr).toContain('--allow replaces-edited-unit')
    await schedule(['install', '--yes', '--allow', 'replaces-edited-unit'])
    expect((await host.run(`cat ${unit}`)).stdout).not.toContain('Nice=5')
    expect((await host.run('systemctl show -p Nice --value howdah-backup-nightly')).stdout).toBe('7\n')
  })

  test('a step fails: all is as it was before, and that is said', async () => {
    const before = await unitFiles(true)
    await host.run(
      `printf '#!/bin/sh\\n[ "$2" != start ] || { echo "no start today" >&2; exit 1; }\\nexec /usr/bin/systemctl "$@"\\n' >/usr/local/bin/systemctl && chmod +x /usr/local/bin/systemctl`,
    )
    await describeHost({ schedule: '45 4 * * *', more: 'weekly' })
    const { stderr } = await schedule(['install', '--yes'], 43)
    await host.run('rm /usr/local/bin/systemctl')
    expect(stderr).toContain('no start today')
    expect(stderr).toContain('The units are as they were before')
    expect(await unitFiles(true)).toBe(before)
    expect(await timers()).toEqual(['howdah-archive-check', 'howdah-backup-nightly', 'howdah-check'])
    expect(
      (await host.run('systemctl show -p NextElapseUSecRealtime --value howdah-backup-nightly.timer')).stdout,
    ).toContain('02:00:00')
    await describeHost({})
    expect((await schedule(['install', '--plan'])).stdout).toBe('nothing to do\n')
  })
})

test(
  'a paused job: stays so over a reboot and an installation; resumed, it makes up for nothing',
  { timeout: 120_000 },
  async () => {
    await schedule(['pause', 'backup-nightly'])
    expect(await timers()).toEqual(['howdah-archive-check', 'howdah-check'])
    await host.run(`touch -d '3 days ago' /var/lib/systemd/timers/stamp-howdah-backup-nightly.timer`)
    await host.reboot()
    expect((await schedule(['install', '--yes'])).stdout).toBe('nothing to do\n')
    expect(await timers()).toEqual(['howdah-archive-check', 'howdah-check'])
    expect((await schedule(['list'])).stdout).toMatch(/^backup-nightly .*paused since/m)
    expect((await schedule(['pause', 'backup-nightly'])).stdout).toContain('paused already')
    expect(
      (await host.run([HOWDAH, 'schedule', 'resume', 'check'], { user: 'postgres', okCodes: [13] })).stderr,
    ).toContain('this is not root')
    await schedule(['resume', 'backup-nightly'])
    expect(await timers()).toEqual(['howdah-archive-check', 'howdah-backup-nightly', 'howdah-check'])
    await host.run('sleep 1')
    expect(
      (await host.run('systemctl show -p ExecMainStartTimestamp --value howdah-backup-nightly')).stdout,
    ).toBe('\n')
  },
)

test('killed at each step: the next installation completes it', { timeout: 120_000 }, async () => {
  await schedule(['remove', '--yes'])
  const program = '/opt/howdah'
  for (const [number, [step, sign]] of [
    ['the program is copied', `ls -d ${program}/.new-*`],
    ['it is the current one', `test -L ${program}/current`],
    ['a unit is written', `test -e ${UNITS}/howdah-archive.service`],
    ['a timer is enabled', `ls ${UNITS}/timers.target.wants/howdah-*`],
  ].entries()) {
    await describeHost({ schedule: `${number + 1} 5 * * *` })
    const { stdout } = await host.run(
      `${HOWDAH} schedule install --yes >/dev/null 2>&1 & ` +
        `while kill -0 $! 2>/dev/null && ! ${sign} >/dev/null 2>&1; do sleep 0.01; done; ` +
        `kill -KILL $! 2>/dev/null && echo killed; wait $! || true`,
      { timeoutSeconds: 60 },
    )
    expect({ step, stdout }).toEqual({ step, stdout: 'killed\n' })
  }
  await schedule(['install', '--yes'])
  expect((await schedule(['install', '--plan'])).stdout).toBe('nothing to do\n')
  expect((await schedule(['diff'])).stdout).toBe('no difference\n')
  expect(await timers()).toEqual(['howdah-archive-check', 'howdah-backup-nightly', 'howdah-check'])
  expect(
    (await host.run('systemctl show -p NextElapseUSecRealtime --value howdah-backup-nightly.timer')).stdout,
  ).toContain('05:04:00')
  expect((await host.run('ls -A /opt/howdah')).stdout).not.toMatch(/^\.(new|current)/m)
})

test('remove: nothing is left but what the jobs recorded, and the drop-in', async () => {
  // An alert that failed is known to systemd by the name of the unit that it was for.
  const drop = '/run/systemd/system/howdah-alert@.service.d'
  await host.run(
    `install -d ${drop} && printf '[Service]\\nExecStart=\\nExecStart=/bin/false\\n' >${drop}/x.conf`,
  )
  await host.run('systemctl daemon-reload; systemctl start howdah-alert@some.service', { okCodes: [1] })
  await host.run(`rm -r ${drop} && systemctl daemon-reload`)
  expect((await host.run('systemctl --failed --plain')).stdout).toContain('howdah-alert@some.service')
  expect((await schedule(['remove', '--plan'])).stdout).toMatch(
    /^- \/etc\/systemd\/system\/howdah-check\.timer$/m,
  )
  expect((await schedule(['remove', '--yes'])).stdout).toContain('- the program in /opt/howdah')
  const left = `ls -d /opt/howdah /etc/tmpfiles.d/howdah.conf ${UNITS}/howdah-* ${UNITS}/*/howdah-* /var/lib/systemd/timers/*howdah* 2>/dev/null || true`
  expect((await host.run(left)).stdout).toBe(`${UNITS}/howdah-backup-nightly.service.d\n`)
  // systemd forgets a unit that is gone when it comes to it, and keeps the bare name while anything refers to it.
  await host.run(
    `while systemctl list-units --all --no-legend --plain 'howdah-*' | grep -v ' not-found inactive '; do sleep 0.2; done`,
    {
      timeoutSeconds: 30,
    },
  )
  expect((await host.run('ls /var/lib/howdah/jobs')).stdout).toContain('backup-nightly.json')
  expect((await schedule(['remove', '--yes'])).stdout).toBe('nothing is installed\n')
})

function schedule(args: readonly string[], code = 0): Promise<HostResult> {
  return host.run([HOWDAH, 'schedule', ...args], { okCodes: [code] })
}

/** Our timers that run and are enabled. */
async function timers(): Promise<string[]> {
  const { stdout } = await host.run(
    `systemctl list-units --type=timer --state=active --no-legend --plain 'howdah-*'; systemctl list-unit-files --type=timer --state=enabled --no-legend 'howdah-*'`,
  )
  const names = [...stdout.matchAll(/^(\S+)\.timer /gm)].map(([, name]) => name!)
  return [...new Set(names)].toSorted().filter((name) => names.filter((other) => other === name).length === 2)
}

/** Names of our unit files; with all that they say, too. */
async function unitFiles(withContent = false): Promise<string> {
  const files = `find ${UNITS} -maxdepth 1 -name 'howdah*' -type f -printf '%f\\n' | sort`
  return (await host.run(withContent ? `${files}; cat ${UNITS}/howdah* 2>/dev/null || true` : files)).stdout
}

interface Varied {
  readonly schedule?: string
  readonly job?: string
  /** The name of a second backup. */
  readonly more?: string
}

async function describeHost({ schedule = '0 2 * * *', job = 'nightly', more }: Varied): Promise<void> {
  const backup = (name: string) =>
    `[backup.${name}]\nkind = "base"\nstore = "local"\nschedule = "${schedule}"\n`
  const text = `
format = 1
[host]
name = "db1"
[postgres]
major = 15
cluster = "lab"
port = ${port}
[postgres.tune]
memory = "512MB"
connections = 20
[store.local]
type = "dir"
path = "/var/backups/howdah"
[archive]
store = "local"
[schedule]
on_failure = ["log"]
metrics_dir = "/srv/metrics"
[notify.log]
command = ["/usr/bin/logger"]
${backup(job)}
${more === undefined ? '' : backup(more)}
`
  const path = join(host.root, 'etc/howdah/host.toml')
  await writeFile(path, text) // its owner and rights stay
  expect(await readFile(path, 'utf8')).toBe(text)
}
