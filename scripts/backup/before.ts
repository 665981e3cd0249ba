import type { LoadedHost } from '../cluster/open.ts'
import { Fail } from '../core/fail.ts'
import { log } from '../core/log.ts'
import { beginProgress } from '../core/progress.ts'
import { formatSize } from '../core/quantity.ts'
import type { Host } from '../host/schema.ts'
import { planTake, take } from './take.ts'

/** How long another run that has the store is waited for. */
const WAIT_SECONDS = 600

/**
 * Takes a backup of a database before something in it is lost. A dump is preferred, as it is restored by itself.
 * @returns the job, and the label of what it took; with `planOnly` nothing is taken, and there is no label
 * @throws {Fail} `plan-impossible` when no job of the host file covers the database, and what a take throws
 */
export async function backupBefore(
  loaded: LoadedHost,
  database: string,
  { planOnly, json }: { readonly planOnly: boolean; readonly json: boolean },
): Promise<{ readonly job: string; readonly label: string | undefined }> {
  const job = coveringJob(loaded.host, database)
  const scope = { loaded, overrides: [], job, waitSeconds: WAIT_SECONDS }
  if (planOnly) {
    await planTake(scope)
    return { job, label: undefined }
  }
  const label = await takeShown(loaded, job, json)
  log('notice', `backup: ${label} was taken by the job ${job}, before anything is lost`)
  return { job, label }
}

/**
 * Takes a backup of all of a cluster.
 * @param job of {@link wholeJob}
 * @returns its label
 * @throws {Fail} what a take throws
 */
export async function takeShown(loaded: LoadedHost, job: string, json: boolean): Promise<string> {
  using progress = beginProgress('backup', json)
  let bytes = 0
  const { label } = await take({
    loaded,
    overrides: [],
    job,
    waitSeconds: WAIT_SECONDS,
    onBytes: (count) => progress.show(`${formatSize((bytes += count))} stored`),
  })
  return label
}

/** The job of a host file whose backups have all of the cluster, a base backup before a dump; undefined without one. Pure. */
export function wholeJob({ backup }: Pick<Host, 'backup'>): string | undefined {
  const jobs = Object.entries(backup)
  const found =
    jobs.find(([, { kind }]) => kind === 'base') ??
    jobs.find(([, spec]) => spec.kind === 'dump' && !spec.databases)
  return found?.[0]
}

/**
 * The job of a host file whose backups have a database. Pure.
 * @throws {Fail} `plan-impossible`
 */
export function coveringJob({ backup }: Host, database: string): string {
  const covering = Object.entries(backup).filter(
    ([, spec]) => spec.kind !== 'dump' || (spec.databases?.includes(database) ?? true),
  )
  const found = covering.find(([, { kind }]) => kind === 'dump') ?? covering[0]
  if (found) return found[0]
  throw new Fail(
    'plan-impossible',
    `no backup of database "${database}" can be taken first: no job covers it`,
    {
      hint: 'Add one to the host file: [backup.final] kind = "dump", store = "NAME"',
    },
  )
}
