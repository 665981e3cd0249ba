#!/usr/bin/env -S sh -c 'exec "${0%/*}/howdah" "$0" "$@"'
/**
 * Shows the main job on a private throw-away cluster, start to end.
 *
 *     sudo scripts/howdah demo
 *
 * Exit codes: 0 done, 2 usage, 13 a program is missing, 25 a step failed, 60 what was restored is not
 * what was there, 130 ended by Ctrl-C. Leaves nothing behind, however it ends.
 */
import { chmod, chown, mkdtemp, readdir, readFile, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import process from 'node:process'
import { userId } from './cluster/connect.ts'
import { loadHost, openCluster, requireCluster } from './cluster/open.ts'
import { type Call, main, type Outcome } from './core/cli.ts'
import { run } from './core/exec.ts'
import { Fail } from './core/fail.ts'
import { colour } from './core/log.ts'
import { beginProgress } from './core/progress.ts'
import { formatCount, formatDuration } from './core/quantity.ts'
import { currentUser } from './core/user.ts'

const ROOT = join(import.meta.dirname, '..')
const PREFIX = '/srv/howdah-demo'

await main({
  name: 'demo',
  summary: 'show the main job on a private throw-away cluster',
  example: 'howdah demo',
  verbs: [
    {
      name: '',
      summary: '',
      fails: ['not-permitted', 'command-failed', 'verify-failed', 'interrupted'],
      run: demo,
    },
  ],
})

/** One thing that was done, as the command that a user would type. */
interface Done {
  readonly command: string
  readonly says: string
  readonly seconds: number
}

async function demo(call: Call): Promise<Outcome> {
  const begun = performance.now()
  const folder = await makeFolderForCluster()
  const done: Done[] = []
  try {
    await steps({ folder, file: join(folder, 'demo.toml'), done, json: call.json })
  } finally {
    await clearUp(folder)
  }
  const seconds = (performance.now() - begun) / 1000
  const text = `The disaster is survived: same rows, same content, nothing pending. ${formatDuration(seconds)} in all; nothing is left behind.`
  return { text, result: { steps: done, seconds } }
}

/** Where the demo runs, and what it did so far. */
interface Stage {
  readonly folder: string
  readonly file: string
  readonly done: Done[]
  readonly json: boolean
}

async function steps(stage: Stage): Promise<void> {
  await writeFile(stage.file, await hostFile(stage.folder))
  const owner = process.getuid?.() === 0 ? 'postgres' : currentUser()
  await howdah(stage, ['secret', 'generate', '--owner', owner])
  await howdah(stage, ['provision', 'plan'], lastLine)
  await howdah(stage, ['provision', 'apply', '--yes'], lastLine)
  await psql(stage, 'postgres', { input: 'sql/demo/telemetry.sql' }, 'telemetry')
  const before = await fingerprint(stage)
  await howdah(stage, ['backup', 'take', 'nightly'], lastLine)
  await psql(stage, 'postgres', { command: 'drop database telemetry' })
  await howdah(stage, ['restore', 'database', 'telemetry', '--yes'], lastLine)
  const after = await fingerprint(stage)
  if (before !== after) {
    throw new Fail(
      'verify-failed',
      `the restored database is not what was backed up: "${after}" instead of "${before}"`,
    )
  }
  await howdah(stage, ['provision', 'plan', '--check'], lastLine)
}

/** conf/demo.toml, in the folder of the demo and for the major that is installed. */
async function hostFile(folder: string): Promise<string> {
  const majors = (await readdir('/usr/lib/postgresql').catch(() => [])).map(Number).filter(Number.isInteger)
  if (majors.length === 0) {
    throw new Fail('not-permitted', 'PostgreSQL is not installed', { hint: 'Run: sudo scripts/howdah demo' })
  }
  const text = await readFile(join(ROOT, 'conf/demo.toml'), 'utf8')
  // Peer authentication, which the pinned rules are of, needs a superuser named like the server's OS user.
  const superuser = process.getuid?.() === 0 ? 'postgres' : currentUser()
  const server = `major = ${Math.max(...majors)}\nsuperuser = ${JSON.stringify(superuser)}`
  return text.replaceAll(PREFIX, folder).replace(/^major = \d+$/m, server)
}

async function makeFolderForCluster(): Promise<string> {
  const folder = await mkdtemp(join(tmpdir(), 'howdah-demo-'))
  await chmod(folder, 0o755)
  if (process.getuid?.() === 0) {
    const { uid, gid } = userId('postgres')
    await chown(folder, uid, gid)
  }
  return folder
}

/** Runs one of the scripts, as a command of its own. */
async function howdah(stage: Stage, argv: readonly string[], say = lastLine): Promise<void> {
  const [script, ...args] = [...argv, '-c', stage.file]
  await step(stage, ['howdah', ...argv, '-c', stage.file].join(' '), async () => {
    const program = [process.execPath, join(ROOT, 'scripts', `${script}.ts`), ...args]
    const { stdout } = await run(program, { keepEnvironment: true, env: { NO_COLOR: '1' } })
    return say(stdout)
  })
}

/** Runs statements as the superuser. */
async function psql(
  stage: Stage,
  database: string,
  what: { readonly command: string } | { readonly input: string },
  target = database,
): Promise<void> {
  const cluster = await requireCluster((await loadHost(stage.file)).host)
  const { argv, env } = cluster.clientArguments(target)
  const options = [...argv, '--no-psqlrc', '--quiet', '--set=ON_ERROR_STOP=1']
  const shown = `psql -h ${cluster.socketDir} ${target}`
  const isFile = 'input' in what
  const command = isFile ? `${shown} < ${what.input}` : `${shown} -c '${what.command}'`
  const input = isFile ? await readFile(join(ROOT, what.input), 'utf8') : what.command
  await step(stage, command, async () => {
    await run([join(cluster.bindir, 'psql'), ...options, '--file=-'], { as: cluster.osUser, env, input })
    return ''
  })
}

/** Count and hash of the content: equal for equal rows only, in whatever order they are stored. */
async function fingerprint(stage: Stage): Promise<string> {
  let found = ''
  const query = `select count(*), md5(string_agg(md5(t::text), '' order by ts, device)) from telem t`
  await step(stage, `psql telemetry -c "select count(*), md5(...) from telem"`, async () => {
    const cluster = await requireCluster((await loadHost(stage.file)).host)
    const client = await cluster.connect('telemetry')
    try {
      const { rows } = await client.query<{ count: string; md5: string }>(query)
      const { count, md5 } = rows[0]!
      found = `${formatCount(BigInt(count))} rows, ${md5}`
      return found
    } finally {
      await client.end()
    }
  })
  return found
}

async function step(stage: Stage, command: string, body: () => Promise<string>): Promise<void> {
  const begun = performance.now()
  const shown = command.replaceAll(stage.folder, '$DEMO')
  let says: string
  {
    using _progress = beginProgress(shown, stage.json)
    says = await body()
  }
  const seconds = (performance.now() - begun) / 1000
  says = says.replaceAll(stage.folder, '$DEMO')
  stage.done.push({ command: shown, says, seconds })
  if (stage.json) return
  const time = colour('dim', formatDuration(seconds))
  process.stdout.write(`${colour('bold', `$ ${shown}`)}\n  ${says === '' ? '' : `${says}  `}${time}\n`)
}

function lastLine(output: string): string {
  return output.trim().split('\n').at(-1) ?? ''
}

/** Ends the server and removes the folder, also after Ctrl-C. */
async function clearUp(folder: string): Promise<void> {
  const loaded = await loadHost(join(folder, 'demo.toml')).catch(() => undefined)
  const cluster = loaded && (await openCluster(loaded.host).catch(() => undefined))
  if (cluster) {
    const stop = [join(cluster.bindir, 'pg_ctl'), '-s', '-D', cluster.dataDir, '-m', 'immediate', 'stop']
    await run(stop, { as: cluster.osUser, okCodes: [0, 1], evenInterrupted: true })
  }
  await rm(folder, { recursive: true, force: true, maxRetries: 5 })
}
