import { mkdir, readFile, writeFile } from 'node:fs/promises'
import { createServer } from 'node:net'
import { join } from 'node:path'
import process from 'node:process'
import { setTimeout as sleep } from 'node:timers/promises'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { run } from '../../scripts/core/exec.ts'
import { exists, readTextIfAny } from '../../scripts/core/file.ts'
import { freePort } from '../support/port.ts'
import { ROOT, runScript, type ScriptResult } from '../support/script.ts'
import { newestMajor } from '../support/server.ts'
import { type UpgradeHost, upgradeHost } from '../support/upgrade.ts'

const FROM = await newestMajor()
const TO = 17

const upgrade = (host: UpgradeHost, verb: string, ...args: string[]): Promise<ScriptResult> => {
  const choice = ['run', 'check', 'rehearse'].includes(verb)
    ? ['--to', String(TO), '--bindir', host.bindir]
    : []
  return runScript(['upgrade', verb, ...choice, ...args, '-c', host.file])
}

const JOURNAL = 'state/journal/upgrade-port-5432.json'

interface During {
  readonly phase: string
  readonly args: readonly string[]
  readonly journal?: string
}

/** Runs an upgrade, and does something once it is in a phase. */
async function runDuring(
  host: UpgradeHost,
  { phase, args, journal = join(host.server.dir, JOURNAL) }: During,
  action: (pid: number) => Promise<void>,
): Promise<ScriptResult> {
  const acted = Promise.withResolvers<void>()
  const over = new AbortController()
  const act = async (pid: number) => {
    while (!(await readTextIfAny(journal))?.includes(`"phase": "${phase}"`)) {
      over.signal.throwIfAborted()
      await sleep(2)
    }
    await action(pid)
  }
  const done = await runScript(
    ['upgrade', 'run', '--to', String(TO), '--bindir', host.bindir, ...args, '-c', host.file],
    { onStart: (pid) => void act(pid).then(acted.resolve, acted.reject) },
  )
  over.abort(new Error(`it was never in the phase ${phase}: ${done.stderr}`))
  await acted.promise
  return done
}

/** When the server that the host file names was started. */
async function startOf(host: UpgradeHost): Promise<string> {
  const [row] = await host.query<{ at: string }>('postgres', 'select pg_postmaster_start_time()::text as at')
  return row!.at
}

describe('what cannot go well: nobody notices, since the old cluster serves all the time', () => {
  let host: UpgradeHost

  beforeAll(async () => {
    host = await upgradeHost([FROM, TO])
  })
  afterAll(() => host[Symbol.asyncDispose]())

  test.each([
    [
      'a view on what the new major has not',
      'create view stale as select checkpoints_timed from pg_stat_bgwriter',
      'drop view stale',
      /stale|checkpoints_timed/,
    ],
    [
      'an extension without a package',
      'create extension old_snapshot',
      'drop extension old_snapshot',
      /old_snapshot/,
    ],
    [
      'a column of a type that pg_upgrade refuses',
      'create table held (o regoper)',
      'drop table held',
      /held/,
    ],
  ])('%s: run is refused with its name, and check says so', async (_what, make, drop, name) => {
    await host.server.query('postgres', make)
    const before = await startOf(host)
    const refused = await upgrade(host, 'run')
    expect(refused.code).toBe(42)
    expect(refused.stderr).toMatch(name)
    const checked = await upgrade(host, 'check')
    expect(checked.code).toBe(1)
    expect(checked.stdout).toMatch(name)
    expect(await startOf(host)).toBe(before)
    expect(await exists(join(host.server.dir, 'data-17'))).toBe(false)
    await host.server.query('postgres', drop)
  })

  test('rehearse: names the statement that the new major refuses, and leaves nothing', async () => {
    await host.server.query('postgres', 'create view stale as select checkpoints_timed from pg_stat_bgwriter')
    const done = await upgrade(host, 'rehearse')
    expect(done.code).toBe(42)
    expect(done.stderr).toMatch(/the rehearsal ended: the new major does not take database "postgres"/)
    expect(done.stderr).toMatch(/CREATE VIEW public\.stale/)
    await host.server.query('postgres', 'drop view stale')
    expect((await upgrade(host, 'rehearse')).stdout).toMatch(/^17 takes every definition of 2 databases, in /)
  })

  test('something in the place of the new cluster: is never touched', async () => {
    const folder = join(host.server.dir, 'data-17')
    await mkdir(folder)
    await writeFile(join(folder, 'precious'), '')
    const refused = await upgrade(host, 'run')
    expect(refused.code).toBe(56)
    expect(refused.stderr).toContain(`there is something in "${folder}" already`)
    expect(await exists(join(folder, 'precious'))).toBe(true)
    await run(['rm', '-r', folder])
  })

  test.each([
    [['--to', 'x'], 2, '--to wants a number, and "x" is none'],
    [['--to', '14'], 33, 'there is no cluster'],
    [['--method', 'swap'], 2, 'the method swap came with 18'],
    [['--bindir', '/nowhere'], 13, 'there is no pg_upgrade in "/nowhere"'],
  ])('wrong words %j: one line says why', async (args, code, text) => {
    const done = await upgrade(host, 'run', ...args)
    expect(done.code).toBe(code)
    expect(done.stderr).toContain(text)
  })

  test('run --plan: says all of it and writes nothing', async () => {
    const before = await readFile(host.file, 'utf8')
    const planned = await upgrade(host, 'run', '--plan', '--method', 'link')
    expect(planned.stdout).toMatch(/^\+ cluster .*data-17 \(17\)/)
    expect(planned.stdout).toContain('~ host file: postgres.major = 17')
    expect(planned.stdout).toContain('! no way back as soon as the new cluster runs')
    expect(await readFile(host.file, 'utf8')).toBe(before)
    expect(await exists(join(host.server.dir, 'state/journal'))).toBe(false)
    expect((await upgrade(host, 'status')).stdout).toBe('no upgrade is under way\n')
  })
})

describe('what goes wrong while nobody can connect: the old cluster serves again', () => {
  const serves = async (host: UpgradeHost) => {
    expect((await host.cluster()).major).toBe(FROM)
    expect(await host.query('postgres', 'select n from kept')).toEqual([{ n: 1 }])
    expect(await exists(join(host.server.dir, 'data-17'))).toBe(false)
    expect((await upgrade(host, 'status')).stdout).toBe('no upgrade is under way\n')
  }

  test('Ctrl-C while the data goes over', async () => {
    await using host = await upgradeHost([FROM, TO])
    await host.server.query('postgres', 'create table kept as select 1 as n')
    const done = await runDuring(host, { phase: 'transfer', args: [] }, async (pid) => {
      process.kill(pid, 'SIGINT')
    })
    expect(done.code).toBe(130)
    await serves(host)
  })

  test('a new cluster that lacks something', async () => {
    await using host = await upgradeHost([FROM, TO])
    await host.server.query('postgres', 'create table kept as select 1 as n')
    const done = await runDuring(host, { phase: 'transfer', args: [] }, async () => {
      const path = join(host.server.dir, 'state/upgrade/port-5432/before.json')
      const manifest = JSON.parse(await readFile(path, 'utf8'))
      manifest.entries.push({ database: 'postgres', kind: 'rows', name: 'public.lost', value: '7' })
      await writeFile(path, JSON.stringify(manifest))
    })
    expect(done.code).toBe(60)
    expect(done.stderr).toContain('rows public.lost in database postgres: 7 -> not there')
    await serves(host)
  })

  test('a port that somebody else takes meanwhile: neither can have it, and it is said; the old one serves once it is free', async () => {
    const port = await freePort()
    await using host = await upgradeHost([FROM, TO], '', {
      settings: { listen_addresses: '127.0.0.1', port: String(port) },
    })
    await host.server.query('postgres', 'create table kept as select 1 as n')
    const holder = createServer()
    const journal = join(host.server.dir, `state/journal/upgrade-port-${port}.json`)
    const done = await runDuring(host, { phase: 'start', args: [], journal }, async () => {
      await new Promise<void>((resolve) => holder.listen(port, '127.0.0.1', resolve))
    })
    expect(done.code).toBe(25)
    expect(done.stderr).toMatch(/the old cluster could not be opened again[^]*hint: howdah upgrade rollback/)
    expect(done.stderr).toMatch(/could not bind IPv4 address "127\.0\.0\.1": Address already in use/)
    await new Promise((resolve) => holder.close(resolve))
    const back = await upgrade(host, 'rollback')
    expect(back.stderr).not.toMatch(/error/)
    await serves(host)
  })

  // The journal of the upgrade is on that disk, too, as it is on most hosts.
  // Whether the run fails, and with what, depends on what there was still to be written; but where files are copied.
  const COPIED = ['transfer', 'copy', [57]] as const
  const EVERY = ['make', 'close', 'transfer', 'start', 'open'].flatMap((phase) => [
    [phase, 'dump', [0, 11, 25, 32, 57]] as const,
    [phase, 'copy', [0, 11, 25, 32, 57]] as const,
  ])
  const full = process.env['HOWDAH_SOAK'] ? [COPIED, ...EVERY] : [COPIED]
  test.runIf(process.getuid?.() === 0).each(full)(
    'a disk that is full in the phase %s, by %s',
    async (phase, method, codes) => {
      await using host = await upgradeHost([FROM, TO])
      await host.server.query('postgres', 'create table kept as select 1 as n')
      const disk = join(host.server.dir, 'disk')
      await mkdir(disk)
      await run(['mount', '-t', 'tmpfs', '-o', 'size=500m,mode=0755', 'tmpfs', disk])
      try {
        const state = `host.state_dir=${join(disk, 'state')}`
        const journal = join(disk, 'state/journal/upgrade-port-5432.json')
        const args = ['--method', method, '--data-dir', join(disk, 'data'), state]
        const done = await runDuring(host, { phase, args, journal }, async () => {
          await run(['dd', 'if=/dev/zero', `of=${join(disk, 'filler')}`, 'bs=1M'], { okCodes: [1] })
        })
        expect(codes).toContain(done.code)
        expect(done.stderr.includes(`there is no space left in "${join(disk, 'data')}"`)).toBe(
          done.code === 57,
        )
        await run(['rm', '-f', join(disk, 'filler')])
        if (done.code !== 0) await upgrade(host, 'resume', state)
        expect(await host.query('postgres', 'select n from kept')).toEqual([{ n: 1 }])
        const isDone = (await host.cluster()).major === TO
        const { stdout } = await upgrade(host, 'status', state)
        expect(stdout).toMatch(isDone ? /kept: done/ : /^no upgrade is under way\n$/)
        expect(await exists(join(disk, 'data'))).toBe(isDone)
        if (isDone) await upgrade(host, 'rollback', '--allow', 'loses-writes', state)
        expect((await host.cluster()).major).toBe(FROM)
      } finally {
        await run(['umount', '--lazy', disk])
      }
    },
  )
})

test('after it is done: run says so, rollback asks for what is lost, keeps that while the old cluster does not start, and goes back', async () => {
  await using host = await upgradeHost([FROM, TO])
  await host.server.query('postgres', 'create table kept as select 1 as n')
  await host.server.query('postgres', NO_STATISTICS)
  // As root often has it: what is made for the OS user of the cluster must be readable by that one all the same.
  const shell = ['sh', '-c', 'umask 077; cd "$1"; shift; exec "$@"', 'sh', host.server.dir]
  const umask = [...shell, process.execPath, join(ROOT, 'scripts/upgrade.ts')]
  const args = ['run', '--to', String(TO), '--bindir', host.bindir, '-c', 'host.toml']
  const done = await run([...umask, ...args], { keepEnvironment: true })
  expect(done.code).toBe(0)
  expect(done.stderr).not.toMatch(/error/)
  expect(done.stdout).toMatch(/^note: not all statistics could be made: .*Make them by: vacuumdb/m)
  expect(done.stdout).toMatch(/nobody could connect for [\d.]+ (s|ms)/)
  expect(done.stdout).toMatch(/things compared by counts: all equal/)
  const again = await upgrade(host, 'run')
  expect(again.code).toBe(0)
  // Whoever goes on with it stands elsewhere, such as systemd.
  expect(JSON.parse(await readFile(join(host.server.dir, JOURNAL), 'utf8')).file).toBe(host.file)
  expect((await upgrade(host, 'status')).stdout).toMatch(/kept: done; the old cluster is kept/)
  await host.query('postgres', 'insert into kept values (2)')
  const refused = await upgrade(host, 'rollback')
  expect(refused.code).toBe(40)
  expect(refused.stderr).toMatch(/going back loses what was written since \S+ \([\d.]+ [kM]?i?B of WAL\)/)
  const control = join(host.server.dir, 'data/global/pg_control')
  await run(['mv', control, `${control}.away`])
  const stuck = await upgrade(host, 'rollback', '--allow', 'loses-writes')
  expect(stuck.code).not.toBe(0)
  expect(await exists(join(host.server.dir, 'data-17/base'))).toBe(true)
  await run(['mv', `${control}.away`, control])
  const back = await upgrade(host, 'rollback', '--allow', 'loses-writes')
  expect(back.stderr).not.toMatch(/error/)
  expect(await exists(join(host.server.dir, 'data-17'))).toBe(false)
  expect(await host.query('postgres', 'select n from kept')).toEqual([{ n: 1 }])
  expect((await upgrade(host, 'rollback')).stderr).toContain('no upgrade is under way, and none is kept')
})

test('finalize: drops the old cluster when it was kept long enough, and never before', async () => {
  await using host = await upgradeHost([FROM, TO])
  await upgrade(host, 'run', '--method', 'link')
  for (const more of ['--plan', '--allow=loses-writes']) {
    const back = await upgrade(host, 'rollback', more)
    expect(back.code).toBe(42)
    expect(back.stderr).toContain('there is no way back: by the method link')
  }
  const early = await upgrade(host, 'finalize')
  expect(early.code).toBe(40)
  expect(early.stderr).toMatch(/is kept for .* more/)
  const dropped = await upgrade(host, 'finalize', '--allow', 'drops-early')
  expect(dropped.stderr).not.toMatch(/error/)
  expect(await exists(join(host.server.dir, 'data'))).toBe(false)
  expect((await host.cluster()).major).toBe(TO)
  expect(await host.query('postgres', 'select 1 as n')).toEqual([{ n: 1 }])
})

test('finalize, killed in its midst: there is no way back any more, and done again it drops the rest', async () => {
  await using host = await upgradeHost([FROM, TO])
  await host.server.query('postgres', 'create table kept as select 1 as n')
  await upgrade(host, 'run')
  const args = ['upgrade', 'finalize', '--allow', 'drops-early', '-c', host.file]
  const killed = await runScript(args, {
    onStart: async (pid) => {
      while (!(await readTextIfAny(join(host.server.dir, JOURNAL)))?.includes('"phase": "drop"'))
        await sleep(2)
      process.kill(pid, 'SIGKILL')
    },
  })
  expect(killed.signal).toBe('SIGKILL')
  const back = await upgrade(host, 'rollback', '--allow', 'loses-writes')
  expect(back.code).toBe(42)
  expect(back.stderr).toContain('there is no way back: the old cluster is being dropped')
  expect((await upgrade(host, 'status')).stdout).toMatch(/drop: done; [^]*next: howdah upgrade finalize/)
  expect((await upgrade(host, 'run')).code).toBe(0)
  const dropped = await upgrade(host, 'finalize')
  expect(dropped.stderr).not.toMatch(/error/)
  expect(await exists(join(host.server.dir, 'data'))).toBe(false)
  expect(await host.query('postgres', 'select n from kept')).toEqual([{ n: 1 }])
})

// ANALYZE calls the function of an index, and this one wants a setting that no other session has.
const NO_STATISTICS = `
  create function wants_setting(n int) returns int language plpgsql immutable
    as $$ begin return n + current_setting('my.number')::int; end $$;
  set my.number = 1;
  create table odd as select g as n from generate_series(1, 9) g;
  create index on odd (wants_setting(n))`
