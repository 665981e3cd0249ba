import { rm } from 'node:fs/promises'
import { join } from 'node:path'
import { writeFileAtomic } from '../core/file.ts'
import type { Host } from '../host/schema.ts'
import { access, type JobState } from './state.ts'

/**
 * Writes what is remembered of a job for node_exporter's textfile collector, if the host file wants it.
 * @throws {Fail} `file-unreadable`
 */
export async function writeMetrics(host: Host, state: JobState): Promise<void> {
  const path = pathOf(host, state.job)
  // The collector is another user.
  if (path !== undefined)
    await writeFileAtomic(path, renderMetrics(host.host.name, state), { ...access(host), mode: 0o644 })
}

/** Removes what was written of jobs that are gone: a success that never comes again would look overdue for ever. */
export async function removeMetrics(host: Host, jobs: readonly string[]): Promise<void> {
  for (const job of jobs) {
    const path = pathOf(host, job)
    if (path !== undefined) await rm(path, { force: true })
  }
}

function pathOf(
  { schedule: { metrics_dir: folder, unit_prefix: prefix } }: Host,
  job: string,
): string | undefined {
  return folder === undefined ? undefined : join(folder, `${prefix}_${job}.prom`)
}

interface Metric {
  readonly name: string
  readonly help: string
  readonly value: number | undefined
}

/** What is remembered of a job, in the text format of Prometheus. What is not known yet is left out. Pure. */
export function renderMetrics(host: string, state: JobState): string {
  const labels = `{host="${escape(host)}",job="${escape(state.job)}"}`
  return metricsOf(state)
    .filter(({ value }) => value !== undefined)
    .map(
      // The help must be there, and the same in the files of all jobs: without it the collector makes one up
      // of the file's name, and then takes the metric from one of the files only.
      ({ name, help, value }) =>
        `# HELP ${name} ${help}\n# TYPE ${name} gauge\n${name}${labels} ${String(value)}\n`,
    )
    .join('')
}

function metricsOf({ last, lastSuccess, failures }: JobState): Metric[] {
  const seconds = (time: string | undefined) => (time === undefined ? undefined : Date.parse(time) / 1000)
  const duration = last && (Date.parse(last.ended) - Date.parse(last.begun)) / 1000
  return [
    {
      name: 'howdah_job_last_success_timestamp_seconds',
      help: 'When the last successful run of the job began; 0 when none did.',
      // Without a series no rule about its age would find a job that never succeeded.
      value: seconds(lastSuccess) ?? 0,
    },
    {
      name: 'howdah_job_last_run_timestamp_seconds',
      help: 'When the last run of the job that has ended began.',
      value: seconds(last?.begun),
    },
    {
      name: 'howdah_job_last_duration_seconds',
      help: 'How long the last run of the job took.',
      value: duration === undefined ? undefined : Math.max(0, duration),
    },
    {
      name: 'howdah_job_failed',
      help: 'Whether the job has failed since its last success.',
      value: failures > 0 ? 1 : 0,
    },
    {
      name: 'howdah_job_consecutive_failures',
      help: 'Failures of the job since its last success.',
      value: failures,
    },
  ]
}

/** A label's value, as the text format wants it. */
function escape(text: string): string {
  return text.replaceAll('\\', '\\\\').replaceAll('"', '\\"').replaceAll('\n', '\\n')
}
