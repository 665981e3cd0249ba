import { readFile, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { bootHost, type HostResult, type TestHost } from '../support/host.ts'
import { freePort } from '../support/port.ts'

// One Debian 12 host with a systemd of its own reads files as they are written; each test goes on where the one
// before it ended.

const HOWDAH = '/srv/howdah/scripts/howdah'
const UNIT = 'howdah-watch-telem.service'
const TELEM = '/opt/MagAOX/telem'

let host: TestHost
let port: number

beforeAll(async () => {
  port = await freePort()
  host = await bootHost({ suite: 'bookworm' })
  await host.copyCheckout('/srv/howdah')
  await host.run(`install -d /etc/howdah && install -d -m 0755 ${TELEM}`)
  await describeHost()
  await host.run([HOWDAH, 'provision', 'apply', '--yes'], { timeoutSeconds: 470 })
  await host.run('chown root:postgres /etc/howdah/host.toml && chmod 0640 /etc/howdah/host.toml')
}, 480_000)

afterAll(() => host?.[Symbol.asyncDispose]())

test('install: the service is ready when it follows the folders, and what was there before is read', async () => {
  await write('old', 0, 1)
  const { stdout } = await howdah(['schedule', 'install', '--yes'])
  expect(stdout).toMatch(/\ninstalled\n$/)
  await untilActive()
  expect(await show('Type', 'User', 'NRestarts', 'UnitFileState')).toEqual([
    'NRestarts=0',
    'Type=notify',
    'UnitFileState=enabled',
    'User=postgres',
  ])
  await expectNumbers('old', [0, 1])
})

test('a new file, and one that grows: their rows appear, and systemctl status says what was read', async () => {
  await write('cooler-a', 0, 1)
  await expectNumbers('cooler-a', [0, 1])
  await write('cooler-a', 2, 2)
  await expectNumbers('cooler-a', [0, 1, 2])
  await host.run(`install -d ${TELEM}/cam_1/2026_03_14`)
  await write('cam_1/2026_03_14/cam_1', 0, 0)
  await expectNumbers('cam_1', [0])
  await untilStatus('Status: "3 folders, [0-9]+ files read, 6 rows, 0 rejected lines, 0 files wait"')
  expect(await show('NRestarts', 'SubState')).toEqual(['NRestarts=0', 'SubState=running'])
})

test('the server is stopped, and started again: it waits for it, and what was written meanwhile is read', async () => {
  const pid = await show('MainPID')
  await host.run('systemctl stop postgresql@15-lab')
  await write('cooler-a', 3, 3)
  await untilStatus('waits for the server')
  await write('late', 0, 0)
  await host.run('systemctl start postgresql@15-lab')
  await expectNumbers('cooler-a', [0, 1, 2, 3])
  await expectNumbers('late', [0])
  await untilStatus('0 files wait"')
  expect((await host.run(`systemctl status ${UNIT}`)).stdout).not.toContain('waits for the server,')
  expect(await show('MainPID')).toEqual(pid)
})

test('stopped, and started again: what changed meanwhile is read, and nothing is there twice', async () => {
  await host.run(`systemctl stop ${UNIT}`)
  expect(await show('Result', 'ExecMainStatus')).toEqual(['ExecMainStatus=0', 'Result=success'])
  await write('cooler-a', 4, 4)
  await write('between', 0, 1)
  await host.run(`systemctl start ${UNIT}`)
  await expectNumbers('cooler-a', [0, 1, 2, 3, 4])
  await expectNumbers('between', [0, 1])
  await expectVerified()
})

test('killed: systemd starts it again, and it reads on', async () => {
  await host.run(`systemctl kill --signal=KILL --kill-whom=main ${UNIT}`)
  await write('killed', 0, 0)
  await expectNumbers('killed', [0])
  expect(await show('NRestarts')).toEqual(['NRestarts=1'])
  await untilActive()
})

test(
  'the host is booted again: it runs by itself, and what was written before it did is read',
  { timeout: 120_000 },
  async () => {
    await write('before', 0, 0)
    await host.reboot()
    await write('after', 0, 0)
    await expectNumbers('before', [0])
    await expectNumbers('after', [0])
    await untilActive()
    expect(await show('NRestarts', 'SubState')).toEqual(['NRestarts=0', 'SubState=running'])
    await expectVerified()
  },
)

function howdah(args: readonly string[]): Promise<HostResult> {
  return host.run([HOWDAH, ...args])
}

/** Properties of the unit. */
async function show(...names: readonly string[]): Promise<string[]> {
  const properties = names.map((name) => `--property=${name}`)
  return (await host.run(['systemctl', 'show', ...properties, UNIT])).stdout.trim().split('\n').toSorted()
}

async function until(command: string): Promise<void> {
  const { stdout } = await host.run(`until ${command}; do sleep 0.2; done; echo reached`, {
    timeoutSeconds: 45,
    okCodes: [0, 137, -1],
  })
  if (stdout.endsWith('reached\n')) return
  const { stdout: journal } = await host.run(`systemctl status ${UNIT}; journalctl -u ${UNIT} -n 50`, {
    okCodes: [0, 3],
  })
  throw new Error(`never reached: ${command}\n${journal}`)
}

const untilActive = () => until(`systemctl is-active --quiet ${UNIT}`)
const untilStatus = (pattern: string) => until(`systemctl status ${UNIT} | grep -E '${pattern}' >/dev/null`)

const ts = (number: number) => `2026-03-14T02:15:${String(10 + number).padStart(2, '0')}.000000999`

/** Appends lines of a device, with the numbers from one to another. */
async function write(name: string, first: number, last: number): Promise<void> {
  let text = ''
  for (let number = first; number <= last; number++)
    text += `{"ts": "${ts(number)}", "prio": "TELM", "ec": "telem_cooler", "msg": ${number}}\n`
  await host.run(`cat >>${TELEM}/${name}_20260314021530.ndjson`, { input: text })
}

async function expectNumbers(device: string, numbers: readonly number[]): Promise<void> {
  const query = `select string_agg(msg::text, ' ' order by ts) from telem where device = '${device}'`
  const psql = `psql -qAtX -p ${port} -d xtelem -c "${query}"`
  await until(`[ "$(runuser -u postgres -- ${psql} 2>&1)" = "${numbers.join(' ')}" ]`)
}

async function expectVerified(): Promise<void> {
  const { stdout } = await howdah(['reingest', 'verify'])
  expect(stdout).toMatch(/^\d+ files, \d+ rows: the table is what the files say\n$/)
}

async function describeHost(): Promise<void> {
  const text = `
format = 1
[host]
name = "aoc"
[postgres]
major = 15
cluster = "lab"
port = ${port}
[postgres.tune]
memory = "512MB"
connections = 20
[roles.xtelem]
login = true
[databases.xtelem]
owner = "xtelem"
[databases.xtelem.migrations]
dir = "/srv/howdah/sql/xtelem/migrations"
role = "xtelem"
[reingest.telem]
database = "xtelem"
hostname = "aoc"
data_dirs = ["${TELEM}"]
watch = true
`
  const path = join(host.root, 'etc/howdah/host.toml')
  await writeFile(path, text)
  expect(await readFile(path, 'utf8')).toBe(text)
}
