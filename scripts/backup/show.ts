import { formatDuration, formatSize } from '../core/quantity.ts'
import { table } from '../core/table.ts'
import type { CatalogEntry } from './catalog.ts'
import { labelTime } from './label.ts'
import { type Manifest, type ManifestFile, totalsOf } from './manifest.ts'
import type { TakePlan } from './take.ts'

/** One stored file as a line: `xtelem.dump.zst  1.2 GB -> 210 MB`. Pure. */
export function showFile({ name, size, plainSize }: ManifestFile, width = 0): string {
  const stored = formatSize(size)
  const from = plainSize === undefined ? '' : `${formatSize(plainSize)} -> `
  return `  ${name.padEnd(width)}  ${from}${stored}`
}

/** A backup that was just taken. Pure. */
export function showTaken(manifest: Manifest, where: string): string {
  const width = Math.max(...manifest.files.map(({ name }) => name.length))
  const { size } = totalsOf(manifest.files)
  return [
    ...manifest.files.map((file) => showFile(file, width)),
    `${manifest.label}: ${count(databaseNames(manifest).length, 'database')}, ${formatSize(dataSize(manifest))} stored as ${formatSize(size)} in ${formatDuration(secondsOf(manifest))} at ${where}`,
  ].join('\n')
}

/** The databases that are in a backup. Pure. */
export function databaseNames({ databases, physical }: Manifest): string[] {
  return (physical?.databases ?? databases).map(({ name }) => name)
}

/** Bytes of what was backed up: of the plain files, or what the server said of its data. */
function dataSize({ physical, files }: Manifest): number {
  return physical?.dataSize ?? totalsOf(files).plainSize
}

/** What a take would do. Pure. */
export function showTakePlan(plan: TakePlan): string {
  const total = plan.databases.reduce((sum, { size }) => sum + size, 0)
  const width = Math.max(0, ...plan.databases.map(({ name }) => name.length))
  return [
    `${plan.kind} of ${plan.cluster}`,
    ...plan.databases.map(({ name, size }) => `  ${name.padEnd(width)}  ${formatSize(size)} on disk`),
    ...plan.tablespaces.map(({ name, location }) => `  tablespace ${name} in ${location}`),
    `${count(plan.databases.length, 'database')}, ${formatSize(total)} on disk, to ${plan.store}${plan.encrypted ? ', encrypted' : ''}`,
    ...plan.findings.map((finding) => `! ${finding}`),
  ].join('\n')
}

/** The backups that there are, oldest first. Pure. */
export function showList(entries: readonly CatalogEntry[], now: Date): string {
  if (entries.length === 0) return 'no backups'
  const rows = entries.map((entry) => {
    const age = showAge(entry.label, now)
    if ('problem' in entry) return [entry.label, '', '', age, '', `damaged: ${entry.problem.message}`]
    const { job, kind, files } = entry.manifest
    const names = databaseNames(entry.manifest).join(', ')
    return [entry.label, job, kind, age, formatSize(totalsOf(files).size), names]
  })
  return table([['LABEL', 'JOB', 'KIND', 'AGE', 'SIZE', 'DATABASES'], ...rows])
}

/** Everything about one backup. Pure. */
export function showBackup(manifest: Manifest, where: string): string {
  const { size } = totalsOf(manifest.files)
  const facts = [
    ['label', manifest.label],
    ['job', manifest.job],
    ['kind', manifest.kind],
    [
      'cluster',
      `${manifest.cluster}, system identifier ${manifest.systemIdentifier}, timeline ${manifest.timeline}`,
    ],
    ['postgres', manifest.postgres.version],
    ['begun', manifest.begun],
    ['took', formatDuration(secondsOf(manifest))],
    ['size', `${formatSize(dataSize(manifest))}, stored as ${formatSize(size)}`],
    ['encrypted', manifest.encrypted ? 'by age' : 'no'],
    ...physicalFacts(manifest),
    ['passwords', manifest.hasPasswords ? 'the verifiers of roles are in it' : 'none'],
    ['howdah', manifest.howdah],
    ['at', where],
  ]
  const { physical } = manifest
  const databases = manifest.databases.map(
    ({ name, size, owner, encoding, collate, tablespace, extensions, objects }) => [
      name,
      formatSize(size),
      owner,
      `${encoding} ${collate}`,
      tablespace,
      String(Object.values(objects).reduce((sum, number) => sum + number, 0)),
      extensions.map(({ name, version }) => `${name} ${version}`).join(', '),
    ],
  )
  return [
    table(facts),
    '',
    physical
      ? table([['DATABASE', 'ON DISK', 'LOCALE', 'EXTENSIONS'], ...physical.databases.map(physicalRow)])
      : table([
          ['DATABASE', 'ON DISK', 'OWNER', 'LOCALE', 'TABLESPACE', 'OBJECTS', 'EXTENSIONS'],
          ...databases,
        ]),
    '',
    table([
      ['FILE', 'SIZE', 'SHA-256'],
      ...manifest.files.map(({ name, size, sha256 }) => [name, formatSize(size), sha256.slice(0, 16)]),
    ]),
  ].join('\n')
}

function physicalFacts({ physical }: Manifest): [string, string][] {
  if (!physical) return []
  const { startLsn, stopLsn, parent, isFromStandby, hasBadChecksums, dataChecksums, tablespaces } = physical
  const checksums = hasBadChecksums ? 'WRONG ON SOME PAGES' : dataChecksums ? 'right' : 'the cluster has none'
  return [
    ['wal', `${startLsn} to ${stopLsn} is inside${isFromStandby ? ', from a standby' : ''}`],
    ...(parent === null ? [] : [['on top of', parent] as [string, string]]),
    ['checksums', checksums],
    ...tablespaces.map(({ name, location, size }): [string, string] => [
      'tablespace',
      `${name} in ${location}, ${formatSize(size)}`,
    ]),
  ]
}

function physicalRow({
  name,
  size,
  collate,
  localeProvider,
  extensions,
}: NonNullable<Manifest['physical']>['databases'][number]): string[] {
  const versions = extensions.map((extension) => `${extension.name} ${extension.version}`)
  return [name, formatSize(size), `${localeProvider} ${collate}`, versions.join(', ')]
}

/** Seconds since a backup began. Pure. */
export function ageSeconds(label: string, now: Date): number {
  return Math.max(0, (now.getTime() - labelTime(label).getTime()) / 1000)
}

/** Seconds that a backup took. Pure. */
export function secondsOf({ begun, ended }: Manifest): number {
  return Math.max(0, (Date.parse(ended) - Date.parse(begun)) / 1000)
}

/** `25 s`, `3 h 20 min`. Pure. */
export function showAge(label: string, now: Date): string {
  const seconds = ageSeconds(label, now)
  return seconds < 60 ? `${Math.round(seconds)} s` : formatDuration(seconds)
}

function count(number: number, noun: string): string {
  return `${number} ${noun}${number === 1 ? '' : 's'}`
}
