import { dirname, isAbsolute, join } from 'node:path'
import { run } from '../core/exec.ts'
import { Fail } from '../core/fail.ts'
import { exists } from '../core/file.ts'
import type { Host } from '../host/schema.ts'
import { calendarOf } from './calendar.ts'
import { assertCalendar } from './elapse.ts'
import { jobsOf, servicesOf } from './job.ts'

/** Where systemd looks for a credential by its name (systemd.exec(5), LoadCredential=). */
const CREDENTIAL_FOLDERS = [
  '/etc/credstore',
  '/run/credstore',
  '/usr/local/lib/credstore',
  '/usr/lib/credstore',
  '/etc/credstore.encrypted',
  '/run/credstore.encrypted',
  '/usr/lib/credstore.encrypted',
] as const

/**
 * What the operator is to know before jobs are installed: what their times do when clocks are changed, and
 * things that they will miss when they run.
 * @throws {Fail} `host-file` for a schedule that says nothing, or that systemd does not know
 */
export async function installationFindings(host: Host): Promise<string[]> {
  return [
    ...(await calendarFindings(host)),
    ...(await missingCredentials(host)),
    ...(await metricsFindings(host)),
    ...(await storeFindings(host)),
    ...(await sourceFindings(host)),
    ...silentFindings(host),
    ...(await programFindings(host)),
  ]
}

/** Folders in which jobs and services store things. */
export function storeFolders(host: Host): string[] {
  const written = new Set([...jobsOf(host), ...servicesOf(host)].flatMap(({ writes }) => writes))
  return Object.values(host.store).flatMap((store) =>
    store.type === 'dir' && written.has(store.path) ? [store.path] : [],
  )
}

/**
 * Asserts that what the host file wants can run here at all. Pure.
 * @param systemd its version
 * @throws {Fail} `plan-impossible`
 */
export function assertServable(host: Host, systemd: number): void {
  const { major } = host.postgres
  if (host.archive !== undefined && major !== undefined && major < 15) {
    throw new Fail('plan-impossible', `WAL is archived from PostgreSQL 15 on, this is ${major}`, {
      hint: 'Leave [archive] out, and take dumps: [backup.NAME] kind = "dump"',
    })
  }
  const [credential] = jobsOf(host).flatMap(({ credentials }) => credentials)
  // There a unit of several programs does not find the folder of its credentials (tried on Debian 11).
  if (systemd >= 248 || credential === undefined) return
  throw new Fail(
    'plan-impossible',
    `systemd ${systemd} cannot give the credential "${credential}" to a job`,
    {
      hint: 'Refer to a file that only the user of the jobs reads: { file = "/etc/howdah/secrets/NAME" }',
    },
  )
}

/**
 * Asserts that those who store something in a folder can get to it, there or not yet: no run would succeed.
 * @throws {Fail} `not-permitted`
 */
export async function assertStores(host: Host): Promise<void> {
  for (const folder of storeFolders(host)) {
    for (const user of usersOfStore(host, folder)) {
      const closed = await closedTo(user, dirname(folder))
      if (closed === undefined) continue
      throw new Fail(
        'not-permitted',
        `the user ${user} cannot get to the store "${folder}": "${closed}" is closed to it`,
        {
          hint: `Let the store be elsewhere, such as in /var/backups, or open it: chmod o+x ${closed}`,
        },
      )
    }
  }
}

/** The first of the folders of a path that a user may not enter. */
async function closedTo(user: string, path: string): Promise<string | undefined> {
  const above = dirname(path)
  const closed = above === path ? undefined : await closedTo(user, above)
  if (closed !== undefined || !(await exists(path))) return closed
  return (await run(['test', '-x', path], { as: user, okCodes: [0, 1] })).code === 0 ? undefined : path
}

function usersOfStore(host: Host, folder: string): Set<string> {
  const writing = [...jobsOf(host), ...servicesOf(host)].filter(({ writes }) => writes.includes(folder))
  return new Set(writing.map(({ user }) => user))
}

/** Nobody hears of what fails, unless somebody looks. */
function silentFindings(host: Host): string[] {
  const silent = jobsOf(host).filter(({ isAlert, onFailure }) => !isAlert && onFailure.length === 0)
  if (silent.length === 0) return []
  const titles = silent.map(({ title }) => title).join(', ')
  return [`nobody is told when one of these fails: ${titles}; name whom: [schedule] on_failure = ["NAME"]`]
}

async function storeFindings(host: Host): Promise<string[]> {
  const findings: string[] = []
  for (const folder of storeFolders(host)) {
    if (!(await exists(folder))) continue // it will be made
    for (const user of usersOfStore(host, folder)) {
      if (await canWrite(user, folder)) continue
      findings.push(`the user ${user} cannot write to the store "${folder}": chown -R ${user}: ${folder}`)
    }
  }
  return findings
}

/** Folders of files that whoever reads them cannot read, there or not yet: all that is in them would be passed over. */
async function sourceFindings(host: Host): Promise<string[]> {
  const findings = new Set<string>()
  for (const { reads, user } of [...jobsOf(host), ...servicesOf(host)]) {
    for (const folder of reads) {
      if (!(await exists(folder))) findings.add(`there is no folder "${folder}" to read files from`)
      else if (!(await canRead(user, folder)))
        findings.add(`the user ${user} cannot read the folder "${folder}": chmod o+rx "${folder}"`)
    }
  }
  return [...findings]
}

async function canRead(user: string, folder: string): Promise<boolean> {
  const look = ['sh', '-c', 'test -r "$1" && test -x "$1"', 'sh', folder]
  return (await run(look, { as: user, okCodes: [0, 1] })).code === 0
}

/** Nobody would hear of the first failure, nor of this. */
async function programFindings({ notify }: Host): Promise<string[]> {
  const findings: string[] = []
  for (const [name, { command }] of Object.entries(notify)) {
    const program = command?.[0]
    if (program === undefined || !isAbsolute(program) || (await exists(program))) continue
    findings.push(`notify.${name}: there is no program "${program}": nobody will be told by it`)
  }
  return findings
}

async function canWrite(user: string, folder: string): Promise<boolean> {
  return (await run(['test', '-w', folder], { as: user, okCodes: [0, 1] })).code === 0
}

async function calendarFindings(host: Host): Promise<string[]> {
  const all: string[] = []
  for (const { path, schedule, timezone } of jobsOf(host)) {
    try {
      const calendar = calendarOf(schedule, timezone)
      await assertCalendar(calendar)
      all.push(...calendar.findings.map((finding) => `${path}: ${finding}`))
    } catch (error) {
      if (!(error instanceof Fail)) throw error
      throw new Fail(error.code, `${path}: ${error.message}`, { hint: error.hint, cause: error })
    }
  }
  return all
}

async function missingCredentials(host: Host): Promise<string[]> {
  const findings: string[] = []
  const users = [...jobsOf(host), ...servicesOf(host)]
  for (const credential of new Set(users.flatMap(({ credentials }) => credentials))) {
    const there = await Promise.all(CREDENTIAL_FOLDERS.map((folder) => exists(join(folder, credential))))
    if (there.includes(true)) continue
    const titles = users
      .filter(({ credentials }) => credentials.includes(credential))
      .map(({ title }) => title)
    findings.push(
      `the credential "${credential}" is missing: it is to be in /etc/credstore/${credential}, for ${titles.join(', ')}`,
    )
  }
  return findings
}

async function metricsFindings(host: Host): Promise<string[]> {
  const folder = host.schedule.metrics_dir
  if (folder === undefined) return []
  if (!(await exists(folder))) return [`schedule.metrics_dir: there is no folder "${folder}"`]
  const users = new Set(jobsOf(host).map(({ user }) => user))
  const findings: string[] = []
  for (const user of users) {
    if (!(await canWrite(user, folder)))
      findings.push(`schedule.metrics_dir: the user ${user} cannot write to "${folder}"`)
  }
  return findings
}
