import { existsSync } from 'node:fs'
import { chmod, chown, mkdir, mkdtemp, readdir, readFile, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { parseHost } from '../scripts/host/host.ts'
import { changeState, readState } from '../scripts/schedule/state.ts'
import { runScript, type ScriptResult } from './support/script.ts'

// What needs no systemd; with one it is in test/journeys/schedule.test.ts.

let dir: string
let file: string

beforeAll(async () => {
  dir = await mkdtemp(join(tmpdir(), 'howdah-schedule-'))
  await chmod(dir, 0o755)
  file = await write('host.toml', `randomized_delay = "5min"\n`)
})

afterAll(() => rm(dir, { recursive: true, force: true }))

const NOBODY = 65_534

describe('render', () => {
  test('without root: each unit after a line with its name', async () => {
    const done = await schedule(['render'], { uid: NOBODY })
    expect(done).toMatchObject({ code: 0, stderr: '' })
    expect(done.stdout).toMatch(/^# howdah-backup-nightly\.(service|timer)\n/)
    expect(
      [...done.stdout.matchAll(/^# (howdah\S*\.(?:service|timer|conf))$/gm)].map(([, name]) => name),
    ).toEqual(
      expect.arrayContaining([
        'howdah-backup-nightly.timer',
        'howdah-backup-nightly.service',
        'howdah-check.timer',
        'howdah-alert@.service',
        'howdah.conf',
      ]),
    )
    expect(done.stdout).toContain(`-c ${file}`)
    expect(done.stdout).toContain('/opt/howdah/current/scripts/howdah')
  })

  test('--out: a file each, the same as --json says', async () => {
    const out = join(dir, 'units/of host')
    const { stdout } = await schedule(['render', '--out', out])
    const { units } = resultOf(await schedule(['render', '--json'])) as {
      units: { name: string; content: string }[]
    }
    expect(stdout.trim().split('\n')).toEqual(units.map(({ name }) => join(out, name)))
    expect((await readdir(out)).toSorted()).toEqual(units.map(({ name }) => name).toSorted())
    for (const { name, content } of units) expect(await readFile(join(out, name), 'utf8')).toBe(content)
  })

  test('an override: is refused, for no unit would know of it', async () => {
    const done = await schedule(['render', 'schedule.timezone=CET'])
    expect(done).toMatchObject({ code: 2, stdout: '' })
    expect(done.stderr).toContain('"schedule.timezone=CET" would not reach the units')
    expect(done.stderr).toContain(`Write it into the host file: ${file}`)
  })

  test('nothing scheduled: says so', async () => {
    const empty = await write('empty.toml', '', { isEmpty: true })
    for (const verb of ['render', 'list']) {
      expect(await schedule([verb], { file: empty })).toMatchObject({
        code: 0,
        stdout: 'nothing is scheduled\n',
      })
    }
    const done = await schedule(['next', 'backup-nightly'], { file: empty })
    expect(done.code).toBe(2)
    expect(done.stderr).toContain('Schedule one: [backup.NAME] schedule = "0 2 * * *"')
  })

  test('no host file: says how to name one', async () => {
    const done = await schedule(['render'], { file: join(dir, 'none.toml') })
    expect(done.code).toBe(11)
    expect(done.stderr).toContain('Name the host file with -c FILE')
  })
})

describe('diff', () => {
  test('nothing is installed: all of it differs, and the exit code says so', async () => {
    const done = await schedule(['diff'], { uid: NOBODY })
    expect(done.code).toBe(1)
    expect(done.stdout).toContain(
      '--- /dev/null (installed)\n+++ howdah-backup-nightly.timer (rendered)\n@@ -0,0 +1,',
    )
    expect(resultOf(await schedule(['diff', '--json']))).toMatchObject({
      differences: expect.arrayContaining([
        { name: 'howdah-check.timer', installed: null, rendered: expect.stringContaining('[Timer]') },
      ]),
    })
  })
})

describe('next', () => {
  test('cron: so many times, in UTC, and what may come on top', async () => {
    const done = await schedule(['next', 'backup-nightly', '-n', '2'], { uid: NOBODY })
    expect(done.stdout).toMatch(
      /^\w{3} \d{4}-\d\d-\d\d 02:00:00 UTC\n\w{3} \d{4}-\d\d-\d\d 02:00:00 UTC\neach begins up to 5min later\n$/,
    )
    const { times } = resultOf(await schedule(['next', 'backup-nightly', '--json'])) as { times: string[] }
    expect(times).toHaveLength(10)
    expect(times).toEqual(times.toSorted())
    expect(Date.parse(times[1]!) - Date.parse(times[0]!)).toBe(86_400_000)
  })

  test('another zone: as clocks show it there, and in UTC', async () => {
    const there = await write('zone.toml', `timezone = "Asia/Tokyo"\n`)
    const { stdout } = await schedule(['next', 'backup-nightly', '-n', '1'], { file: there })
    expect(stdout).toMatch(
      /^(\w{3}) (\S{10}) 02:00:00 Asia\/Tokyo {2}(?!\1)\w{3} (?!\2)\S{10} 17:00:00 UTC\n$/,
    )
  })

  test.each([
    [
      'a job that is none',
      ['next', 'backup-nightli'],
      'there is no scheduled job "backup-nightli"',
      'backup-nightly',
    ],
    ['a count that is none', ['next', 'check', '--count', '0'], '--count is "0", should be 1 to 1000', ''],
    ['no job', ['next'], "missing required argument 'job'", '--help'],
    ['a verb that is none', ['instal'], "unknown command 'instal'", 'install'],
  ])('%s: says what there is', async (_title, args, message, hint) => {
    const done = await runScript(['schedule', ...args, ...(args[0] === 'next' ? ['-c', file] : [])])
    expect(done.code).toBe(2)
    expect(done.stderr).toContain(message)
    expect(done.stderr).toContain(hint)
  })
})

describe.skipIf(existsSync('/run/systemd/system'))('list, pause, resume: no systemd', () => {
  test('a job that never ran: when it runs next', async () => {
    const { stdout } = await schedule(['list'])
    expect(stdout).toMatch(/^JOB +SCHEDULE +LAST RUN +RESULT +LAST SUCCESS +NEXT RUN\n/)
    expect(stdout).toMatch(/^backup-nightly +0 2 \* \* \* +- +never ran +- +\d{4}-\d\d-\d\d 02:00:00 UTC$/m)
  })

  test('a job that fails: when, why and how often; when it was well', async () => {
    const { host } = await loaded()
    const begun = new Date(Date.now() - 3_600_000).toISOString()
    await changeState(host, 'backup-nightly', (state) => ({
      ...state,
      last: { begun, ended: begun, result: 'failed', reason: 'exit-code 55' },
      lastSuccess: new Date(Date.now() - 2 * 86_400_000).toISOString(),
      failures: 3,
    }))
    const { stdout } = await schedule(['list'])
    expect(stdout).toMatch(/^backup-nightly .* UTC +failed: exit-code 55, 3 times +2 d ago +\d{4}/m)
    expect(resultOf(await schedule(['list', '--json']))).toMatchObject({
      jobs: [
        {
          name: 'backup-nightly',
          unit: 'howdah-backup-nightly.timer',
          last: { begun, result: 'failed' },
          lastSuccessSeconds: expect.closeTo(2 * 86_400, -2),
          failures: 3,
          isRunning: false,
          pausedSince: null,
          isInstalled: null,
        },
        { name: 'check', failures: 0, last: null },
      ],
      services: [],
    })
  })

  test('paused: until it is resumed; twice is once', async () => {
    const { host } = await loaded()
    expect((await schedule(['pause', 'backup-nightly'])).stdout).toBe(
      'backup-nightly is paused until: howdah schedule resume backup-nightly\n',
    )
    const { pausedSince } = await readState(host, 'backup-nightly')
    expect((await schedule(['pause', 'backup-nightly'])).stdout).toContain('is paused already, since')
    expect(await readState(host, 'backup-nightly')).toMatchObject({ pausedSince, failures: 3 })
    expect((await schedule(['list'])).stdout).toMatch(/^backup-nightly .*paused since \d{4}.* UTC$/m)
    expect((await schedule(['next', 'backup-nightly', '-n', '1'])).stdout).toContain(
      'backup-nightly is paused: none of them counts until it is resumed',
    )
    expect((await schedule(['resume', 'backup-nightly'])).stdout).toContain('is resumed, after')
    expect((await schedule(['resume', 'backup-nightly'])).stdout).toBe('backup-nightly is not paused\n')
    expect((await readState(host, 'backup-nightly')).pausedSince).toBeUndefined()
  })

  test.runIf(process.getuid!() === 0)('a user without rights: is told who may', async () => {
    await chmod(join(dir, 'state'), 0o700)
    const done = await schedule(['list'], { uid: NOBODY })
    expect(done.code).toBe(11)
    expect(done.stderr).toMatch(/cannot read .*permission denied\n.*Run this as root/)
  })
})

describe('install, remove', () => {
  test.runIf(process.getuid!() === 0)('a user without rights: root is needed', async () => {
    for (const verb of ['install', 'remove']) {
      const done = await schedule([verb, '--yes'], { uid: NOBODY })
      expect(done).toMatchObject({ code: 13, stdout: '' })
      expect(done.stderr).toContain('cannot change units of systemd: this is not root')
    }
  })

  test.runIf(process.getuid!() === 0)('a private cluster: how its jobs run', async () => {
    const there = await write('private.toml', `user = "nobody"\n`, { isPrivate: true })
    const done = await schedule(['install', '--yes'], { file: there })
    expect(done.code).toBe(42)
    expect(done.stderr).toContain('howdah schedule run')
  })

  test("a job of another user than the cluster's owner or root: is refused, as it could not even say that it failed", async () => {
    const there = await write('other.toml', `user = "nobody"\n`)
    const done = await schedule(['install', '--yes'], { file: there })
    expect(done.code).toBe(42)
    expect(done.stderr).toContain(`backup nightly is to run as nobody, who may not write to "${dir}/state"`)
    expect(done.stderr).toContain('Jobs run as postgres, or as root: leave "user" out.')
  })

  test.skipIf(process.getuid!() !== 0 || existsSync('/run/systemd/system'))(
    'a host without systemd: how the jobs run there',
    async () => {
      for (const verb of ['install', 'remove']) {
        const done = await schedule([verb, '--yes'])
        expect(done.code).toBe(13)
        expect(done.stderr).toContain('systemd does not run here')
        expect(done.stderr).toContain('howdah schedule run')
      }
      const done = await schedule(['install', '--json'])
      expect(JSON.parse(done.stdout)).toMatchObject({
        verb: 'install',
        ok: false,
        error: { code: 'not-permitted' },
      })
    },
  )
})

async function write(
  name: string,
  schedule: string,
  { isEmpty = false, isPrivate = false } = {},
): Promise<string> {
  const path = join(dir, name)
  const state = join(dir, 'state')
  await mkdir(state, { recursive: true })
  if (process.getuid!() === 0) await chown(state, 0, 0)
  const postgres = isPrivate ? `kind = "private"\ndata_dir = "${dir}/data"\n` : ''
  const backup = isEmpty ? '' : `[backup.nightly]\nkind = "base"\nstore = "disk"\nschedule = "0 2 * * *"\n`
  const text = `format = 1
[host]
name = "db1"
state_dir = "${state}"
[postgres]
major = 15
${postgres}
[store.disk]
type = "dir"
path = "${dir}/backups"
${backup}
[schedule]
${schedule}`
  await writeFile(path, text)
  return path
}

async function loaded() {
  return { host: parseHost(await readFile(file, 'utf8'), { path: file }) }
}

function schedule(
  args: readonly string[],
  options: { file?: string; uid?: number } = {},
): Promise<ScriptResult> {
  const { uid } = options
  return runScript(['schedule', ...args, '-c', options.file ?? file], uid === undefined ? {} : { uid })
}

function resultOf({ stdout }: ScriptResult): unknown {
  return (JSON.parse(stdout) as { result: unknown }).result
}
