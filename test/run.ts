/**
 * Checks the format, lint, types and unused code, and runs all tests.
 *
 *     howdah test                      # all of it; whole test hosts need root
 *     howdah test --no-journeys        # where no test host can be made
 *     howdah test test/plan role       # test files whose path has one of these in it
 *     howdah test --soak 100           # kill take, archive, prune and restore 100 times each, upgrades in each phase
 *
 * Root without debootstrap, systemd-container or Ceph's packages (for a real S3 server) gets them by apt-get.
 *
 * Servers of majors 13, 17 and 18 are installed into .node/servers beside the one that is there, from npm and,
 * with pg_upgrade and all other programs, from Debian;
 * HOWDAH_TEST_MAJORS=16,17 names more.
 *
 * Ends with a line `N passed, N failed`, in which each check counts as one test.
 * Exit codes: 0 all passed, 1 something failed, 2 usage.
 */

import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { mkdtemp, readFile, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { dirname, join } from 'node:path'
import { type Call, main, type Outcome } from '../scripts/core/cli.ts'
import { run } from '../scripts/core/exec.ts'
import { Fail } from '../scripts/core/fail.ts'
import { exists } from '../scripts/core/file.ts'
import { interrupted } from '../scripts/core/interrupt.ts'
import { log } from '../scripts/core/log.ts'
import { formatDuration } from '../scripts/core/quantity.ts'
import { S3_TOOLS } from './support/ceph.ts'
import { DEBIAN_MAJORS, debianServer, installDebianServer } from './support/debian-server.ts'
import { installServer, missingMajors } from './support/majors.ts'

const ROOT = join(import.meta.dirname, '..')

/** Checks, as package.json has them under "scripts". */
const CHECKS = ['format:check', 'lint', 'types', 'unused'] as const

/** What makes and boots a test host, and the Debian package that it is in. */
const HOST_TOOLS = {
  '/usr/sbin/debootstrap': 'debootstrap',
  '/usr/bin/systemd-nspawn': 'systemd-container',
} as const

await main({
  name: 'test',
  summary: 'checks the format, lint, types and unused code, and runs all tests',
  example: 'howdah test --no-journeys',
  verbs: [
    {
      name: '',
      summary: '',
      args: ['[filters...]'],
      options: [
        { flags: '--no-journeys', help: 'leave out the tests that need a whole host' },
        {
          flags: '--soak <rounds>',
          help: 'only kill backups, archive and restores, so often each, and upgrades in each phase, also with a full disk (ten minutes for five)',
        },
      ],
      run: testAll,
    },
  ],
})

interface Counts {
  passed: number
  failed: number
  skipped: number
}

async function testAll(call: Call): Promise<Outcome> {
  const soak = call.options['soak']
  if (soak !== undefined) return testSoak(soak)
  const withJourneys = call.options['journeys'] !== false
  const counts: Counts = { passed: 0, failed: 0, skipped: 0 }
  for (const check of CHECKS) {
    const isGood = await step(check, () => runCheck(check))
    counts[isGood ? 'passed' : 'failed'] += 1
  }
  await installServers()
  await installPackages('servers of other Debians', { '/usr/bin/patchelf': 'patchelf' })
  await installDebianServers()
  await installPackages('the S3 server', S3_TOOLS)
  await installPackages('measuring', { '/usr/bin/time': 'time' })
  if (withJourneys) await installPackages('the test hosts', HOST_TOOLS)
  await step('tests', async () => {
    const tests = await runTests(call.args, withJourneys)
    for (const key of ['passed', 'failed', 'skipped'] as const) counts[key] += tests[key]
    return tests.failed === 0
  })
  const skipped = counts.skipped > 0 ? `, ${counts.skipped} skipped` : ''
  const text = `${counts.passed} passed, ${counts.failed} failed${skipped}`
  return { text, result: counts, ok: counts.failed === 0 }
}

async function testSoak(rounds: unknown): Promise<Outcome> {
  if (!/^[1-9]\d*$/.test(String(rounds)))
    throw new Fail('usage', `"${String(rounds)}" is no number of rounds`)
  process.env['HOWDAH_SOAK'] = String(rounds)
  const counts = await runTests(
    ['test/backup/kill.test.ts', 'test/upgrade/kill.test.ts', 'test/upgrade/fault.test.ts'],
    false,
  )
  return { text: `${counts.passed} passed, ${counts.failed} failed`, result: counts, ok: counts.failed === 0 }
}

async function step(name: string, body: () => Promise<boolean>): Promise<boolean> {
  const begun = performance.now()
  const isGood = await body()
  interrupted.throwIfAborted()
  const took = formatDuration((performance.now() - begun) / 1000)
  log('info', `test: ${name}: ${isGood ? 'ok' : 'FAILED'}, ${took}`)
  return isGood
}

/** Runs a command of package.json; what it prints is shown when it fails. */
async function runCheck(check: (typeof CHECKS)[number]): Promise<boolean> {
  const { scripts } = JSON.parse(await readFile(join(ROOT, 'package.json'), 'utf8')) as {
    scripts: Record<string, string>
  }
  const child = spawn('sh', ['-c', `{ ${scripts[check]}; } 2>&1`], {
    cwd: ROOT,
    env: {
      ...process.env,
      PATH: `${ROOT}/node_modules/.bin:${dirname(process.execPath)}:${process.env['PATH']}`,
    },
    stdio: ['ignore', 'pipe', 'inherit'],
  })
  let output = ''
  child.stdout.setEncoding('utf8').on('data', (text: string) => (output += text))
  const [code] = (await once(child, 'close')) as [number | null]
  if (code !== 0) process.stderr.write(output)
  return code === 0
}

/** Installs the packages of programs that are missing, when this is root. Else the tests say what is missing. */
async function installPackages(purpose: string, tools: Readonly<Record<string, string>>): Promise<void> {
  const missing: string[] = []
  for (const [program, name] of Object.entries(tools)) {
    if (!(await exists(program))) missing.push(name)
  }
  if (missing.length === 0 || process.getuid?.() !== 0) return
  log('info', `test: installing ${missing.join(' and ')} for ${purpose}`)
  const env = { DEBIAN_FRONTEND: 'noninteractive' }
  const install = [
    'apt-get',
    '-qy',
    '-o',
    'DPkg::Lock::Timeout=300',
    '--no-install-recommends',
    'install',
    ...missing,
  ]
  const { code } = await run(install, { env, okCodes: [0, 100] })
  if (code === 0) return
  await run(['apt-get', '-qy', 'update'], { env })
  await run(install, { env })
}

async function installServers(): Promise<void> {
  for (const major of await missingMajors()) {
    log('info', `test: installing a server of major ${major} into .node/servers`)
    await installServer(major)
  }
}

async function installDebianServers(): Promise<void> {
  if (!(await exists('/usr/bin/patchelf'))) return // nobody could install it: their tests say so
  for (const major of DEBIAN_MAJORS) {
    if (await debianServer(major)) continue
    log('info', `test: unpacking Debian's programs of major ${major} into .node/servers`)
    await installDebianServer(major)
  }
}

/** Runs vitest on this terminal and counts by its report. */
async function runTests(filters: readonly string[], withJourneys: boolean): Promise<Counts> {
  const folder = await mkdtemp(join(tmpdir(), 'howdah-test-report-'))
  const report = join(folder, 'report.json')
  const vitest = [join(ROOT, 'node_modules/vitest/vitest.mjs'), 'run', '--config', 'test/vitest.config.ts']
  const reporters = ['--reporter=default', '--reporter=json', `--outputFile.json=${report}`]
  const child = spawn(process.execPath, [...vitest, ...reporters, ...filters], {
    cwd: ROOT,
    env: { ...process.env, HOWDAH_TEST_NO_JOURNEYS: withJourneys ? '' : '1' },
    stdio: ['ignore', 'inherit', 'inherit'],
  })
  const [code] = (await once(child, 'close')) as [number | null]
  const counts = countReport(await readFile(report, 'utf8').catch(() => '{}'))
  await rm(folder, { recursive: true })
  // Errors outside of any test, no test at all, or a runner that was killed.
  if (code !== 0 && counts.failed === 0) counts.failed = 1
  return counts
}

interface Report {
  readonly numPassedTests?: number
  readonly numFailedTests?: number
  readonly numTotalTests?: number
  readonly testResults?: readonly {
    readonly status: string
    readonly assertionResults: readonly { readonly status: string }[]
  }[]
}

function countReport(text: string): Counts {
  const report = JSON.parse(text) as Report
  const passed = report.numPassedTests ?? 0
  const failedTests = report.numFailedTests ?? 0
  const files = report.testResults ?? []
  // A file that cannot be loaded, or whose set-up fails, has no failed test of its own.
  const failedFiles = files.filter(
    ({ status, assertionResults }) =>
      status === 'failed' && !assertionResults.some((result) => result.status === 'failed'),
  )
  const skipped = (report.numTotalTests ?? 0) - passed - failedTests
  return { passed, failed: failedTests + failedFiles.length, skipped }
}
