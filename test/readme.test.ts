import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { chmod, chown, mkdtemp, readFile, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { afterAll, beforeAll, expect, test, vi } from 'vitest'
import { userId } from '../scripts/cluster/connect.ts'
import { openCluster } from '../scripts/cluster/open.ts'
import { run } from '../scripts/core/exec.ts'
import { parseHost } from '../scripts/host/host.ts'
import { ROOT, runScript } from './support/script.ts'
import { newestMajor } from './support/server.ts'

vi.setConfig({ testTimeout: 240_000 })

const README = join(ROOT, 'README.md')
/** With this set, the outputs in README are written instead of compared. */
const isWriting = process.env['HOWDAH_WRITE_README'] !== undefined

let folder: string
beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), 'howdah-readme-'))
  await chmod(folder, 0o755)
  if (process.getuid?.() === 0) {
    const { uid, gid } = userId('postgres')
    await chown(folder, uid, gid)
  }
  const demo = await readFile(join(ROOT, 'conf/demo.toml'), 'utf8')
  await writeFile(
    hostFile(),
    demo.replaceAll('/srv/howdah-demo', folder).replace(/^major = .*$/m, `major = ${await newestMajor()}`),
  )
})
afterAll(async () => {
  const cluster = await openCluster(parseHost(await readFile(hostFile(), 'utf8'))).catch(() => undefined)
  if (cluster && (await cluster.isRunning())) await cluster.stop()
  await rm(folder, { recursive: true, force: true })
})

function hostFile(): string {
  return join(folder, 'demo.toml')
}

/** A block of README that is marked as checked: its commands, each with the output that README shows. */
async function blockOf(name: string): Promise<{ command: string; output: string }[]> {
  const block = blockPattern(name).exec(await readFile(README, 'utf8'))?.[2]
  expect(block, `README has a checked block "${name}"`).toBeDefined()
  // The demo prints commands itself: all that follows it is its output.
  const prompt = block!.startsWith('$ sudo scripts/howdah demo\n') ? /^\$ (?=sudo )/m : /^\$ /m
  return block!
    .split(prompt)
    .slice(1)
    .map((part) => {
      const [command, ...output] = part.trimEnd().split('\n')
      return { command: command!, output: output.join('\n') }
    })
}

function blockPattern(name: string): RegExp {
  return new RegExp(`(<!-- checked: ${name} -->\\n\\n\`\`\`console\\n)([^]*?)(\`\`\`\\n)`)
}

/** Runs the commands of a block, and compares what they print with README, or writes it there. */
async function check(name: string): Promise<void> {
  const shown = await blockOf(name)
  const real: { command: string; output: string }[] = []
  for (const { command } of shown) real.push({ command, output: await outputOf(command) })
  if (isWriting) {
    const text = real.map(({ command, output }) => `$ ${command}\n${output}\n`).join('')
    const readme = await readFile(README, 'utf8')
    await writeFile(
      README,
      readme.replace(blockPattern(name), (_, before: string, _old, after: string) => before + text + after),
    )
    return
  }
  const expected = shown.map(({ command, output }) => ({ command, output: normalised(output) }))
  expect(real.map(({ command, output }) => ({ command, output: normalised(output) }))).toEqual(expected)
}

async function outputOf(command: string): Promise<string> {
  const [program, ...argv] = command
    .replace(/^sudo scripts\//, '')
    .replace('conf/demo.toml', hostFile())
    .replaceAll('/srv/howdah-demo', folder)
    .split(' ')
  expect(program).toBe('howdah')
  if (argv.length === 0)
    return (await run([join(ROOT, 'scripts/howdah')], { keepEnvironment: true })).stdout.trimEnd()
  if (argv[0] === 'backup' && argv[1] === 'take') await fill()
  const result = await runScript(argv)
  expect([command, result.code, result.stderr]).toEqual([command, 0, ''])
  return result.stdout.trimEnd().replaceAll(folder, '/srv/howdah-demo')
}

/** Puts rows into the database, so that there is something to back up. */
async function fill(): Promise<void> {
  const cluster = (await openCluster(parseHost(await readFile(hostFile(), 'utf8'))))!
  const client = await cluster.connect('telemetry')
  await client.query(await readFile(join(ROOT, 'sql/demo/telemetry.sql'), 'utf8'))
  await client.end()
}

/** What differs from run to run, or from machine to machine, put aside: times, sizes, labels, majors. */
function normalised(text: string): string {
  return text
    .replaceAll(/\d{8}T\d{6}Z-(dump|base|incr)-[0-9a-z]{6}/g, 'LABEL')
    .replaceAll(/\d{4}-\d\d-\d\d[ T]\d\d:\d\d(:\d\d(\.\d+)?)?Z?/g, 'TIME')
    .replaceAll(/\b[0-9A-F]+\/[0-9A-F]{7,8}\b/g, 'LSN')
    .replaceAll(/\b[0-9A-F]{24}\b/g, 'SEGMENT')
    .replaceAll(/\b\d+ (whole )?segments?\b/g, 'N segments')
    .replaceAll(/\bwal\/\d+/g, 'wal/SYSTEM')
    .replaceAll(/ended TIME\S*/g, 'ended TIME')
    .replaceAll(/_before_\w+/g, '_before_TIME')
    .replaceAll(/_restored_\w+/g, '_restored_RANDOM')
    .replaceAll(/\b\d+(\.\d+)? (s|min|h|ms)\b( \d+ (s|min)\b)?/g, 'TIME')
    .replaceAll(/\b\d+(\.\d+)? (B|kB|MB|GB)\b/g, 'SIZE')
    .replaceAll(/\b[0-9a-f]{32}\b/g, 'HASH')
    .replaceAll(/ +/g, ' ')
}

test('README: the host from its file is what the commands print', () => check('session'))

test('README: the restore is what the commands print', () => check('restore'))

test('README: the plan of an upgrade is what the command prints', () => check('upgrade'))

test('README: the restore of a cluster is what the commands print', async () => {
  await runScript(['provision', 'apply', '--yes', '-c', hostFile()])
  const service = spawn(process.execPath, [join(ROOT, 'scripts/archive.ts'), 'run', '-c', hostFile()], {
    stdio: 'ignore',
  })
  try {
    for (let tries = 0; tries < 60; tries++) {
      if ((await runScript(['archive', 'status', '-c', hostFile()])).code === 0) break
      await sleep(500)
    }
    expect((await runScript(['backup', 'take', 'full', '-c', hostFile()])).code).toBe(0)
    await isShipped()
    await check('cluster')
  } finally {
    service.kill('SIGTERM')
    await once(service, 'close')
    const copy = join(folder, 'then/data')
    const bindir = `/usr/lib/postgresql/${await newestMajor()}/bin`
    await run([join(bindir, 'pg_ctl'), '-s', '-D', copy, '-m', 'immediate', 'stop'], {
      as: process.getuid?.() === 0 ? 'postgres' : undefined,
      okCodes: [0, 1],
    })
  }
})

/** Waits until all that was written is in the store, so that the figures are those of an idle server. */
async function isShipped(): Promise<void> {
  for (let tries = 0; tries < 60; tries++) {
    const { stdout } = await runScript(['archive', 'status', '--json', '-c', hostFile()])
    if ((JSON.parse(stdout) as { result?: { loss?: { bytes: number } } }).result?.loss?.bytes === 0) return
    await sleep(500)
  }
}

test('README: every command of its scripts is one, with options that it has', async () => {
  const readme = await readFile(README, 'utf8')
  const commands = [...readme.matchAll(/```(?:sh|console)\n([^]*?)```/g)].flatMap(([, block]) =>
    [...block!.matchAll(/^(?:\$ )?(?:sudo )?(?:scripts\/)?howdah (\w+) ?([a-z]*)(.*)$/gm)].map((match) =>
      match.slice(1),
    ),
  )
  expect(commands.length).toBeGreaterThan(15)
  const helps = new Map<string, string>()
  for (const [script, verb, rest] of commands) {
    if (script === 'test') continue
    const argv = [script!, ...(verb === '' ? [] : [verb!]), '--help']
    const name = argv.join(' ')
    if (!helps.has(name)) helps.set(name, (await runScript(argv)).stdout)
    const help = helps.get(name)!
    expect([name, help.startsWith('Usage: ')]).toEqual([name, true])
    for (const [option] of rest!
      .replace(/#.*/, '')
      .replaceAll(/'[^']*'/g, '')
      .matchAll(/--[a-z-]+/g))
      expect([name, option, help.includes(option)]).toEqual([name, option, true])
  }
})

test('README: the list of scripts is what the launcher prints', () => check('scripts'))

test('README: the demo is what it prints', () => check('demo'))

test('README: the test command ends as it says', async () => {
  const output = (await blockOf('test'))[0]!.output
  expect(output.split('\n').at(-1)).toMatch(/^\d+ passed, 0 failed$/)
})

test('README: every key of its host file examples is known', async () => {
  const readme = await readFile(README, 'utf8')
  const head = 'format = 1\n[host]\nname = "db1"\n[postgres]\nmajor = 17\n'
  for (const [, toml = ''] of readme.matchAll(/```toml\n([^]*?)```/g)) {
    expect(() => parseHost(toml.includes('format = 1') ? toml : head + toml)).not.toThrow()
  }
})
