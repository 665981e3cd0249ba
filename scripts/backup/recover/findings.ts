import { stat } from 'node:fs/promises'
import { dirname, join } from 'node:path'
import { run } from '../../core/exec.ts'
import { exists } from '../../core/file.ts'
import { Fail } from '../../core/fail.ts'
import { formatSize } from '../../core/quantity.ts'
import type { RestoreFinding } from '../restore-plan.ts'
import { buildFindings } from './build-facts.ts'
import type { PhysicalFound } from './choose.ts'
import { assertPlaceFree, type Place, type Space, type TablespaceMove } from './place.ts'

/** Something that a person must know before a restore. */
export type RecoverFinding = RestoreFinding

/** What differs between the host of a backup and this one, as far as it shows without a server. */
export async function hostFindings(found: PhysicalFound, bindir: string): Promise<RecoverFinding[]> {
  const missing = await programFindings(found, bindir)
  if (missing.length > 0) return missing
  const built = await buildFindings(found.manifest.physical, bindir)
  return [...built, ...(await collationFindings(found)), ...(await fileFindings(found, bindir))]
}

/** What is in the way where a cluster is to be restored to. */
export async function placeFindings(
  place: Place,
  moves: readonly TablespaceMove[],
): Promise<RecoverFinding[]> {
  const findings = new Map<string, RecoverFinding>()
  // Each on its own, so that one of them does not hide the others.
  for (const some of [[], ...moves.map((move) => [move])]) {
    try {
      await assertPlaceFree(place, some)
    } catch (error) {
      if (!(error instanceof Fail)) throw error
      const { message: text, hint, code } = error
      findings.set(text, { level: 'impossible', text, code, ...(hint !== undefined && { hint }) })
    }
  }
  return [...findings.values()]
}

/** File systems that are too small. Pure. */
export function spaceFindings(spaces: readonly Space[]): RecoverFinding[] {
  return spaces
    .filter(({ needs, free }) => needs > free)
    .map(({ path, needs, free }) => ({
      level: 'impossible',
      code: 'no-space',
      text: `"${path}" needs ${formatSize(needs)}, that is ${formatSize(needs - free)} more than are free there`,
      hint: 'Free some space, or restore elsewhere with --to DIR.',
    }))
}

async function programFindings({ manifest }: PhysicalFound, bindir: string): Promise<RecoverFinding[]> {
  const { major } = manifest.postgres
  const names = ['postgres', 'pg_ctl', 'pg_controldata', 'pg_waldump']
  if (manifest.physical.parent !== null) names.push('pg_combinebackup')
  for (const name of names) {
    if (await exists(join(bindir, name))) continue
    const text = `there is no ${name} in "${bindir}": apt-get install postgresql-${major}`
    return [{ level: 'impossible', text }]
  }
  const { stdout } = await run([join(bindir, 'postgres'), '-V'])
  const here = Number.parseInt(stdout.replace(/^\D*/, ''), 10)
  if (here === major) return []
  return [
    {
      level: 'impossible',
      text: `the programs in "${bindir}" are of major ${here}, the backup is of ${major}`,
    },
  ]
}

/** An index that was sorted by another version of a library gives wrong answers, without an error. */
async function collationFindings({ manifest }: PhysicalFound): Promise<RecoverFinding[]> {
  const used = manifest.physical.databases.filter(
    ({ localeProvider, collationVersion }) => localeProvider === 'libc' && collationVersion !== null,
  )
  if (used.length === 0) return []
  const { stdout } = await run(['getconf', 'GNU_LIBC_VERSION'], { okCodes: [0, 1] }).catch(() => ({
    stdout: '',
  }))
  const here = /\d+\.\d+/.exec(stdout)?.[0]
  return used
    .filter(({ collationVersion }) => here !== undefined && collationVersion !== here)
    .map(({ name, collationVersion }) => ({
      level: 'warning',
      text: `database ${name} was sorted by glibc ${collationVersion}, here is ${here}: reindex it, then alter database ... refresh collation version`,
    }))
}

async function fileFindings({ manifest }: PhysicalFound, bindir: string): Promise<RecoverFinding[]> {
  const { databases, settings } = manifest.physical
  const findings: RecoverFinding[] = []
  const share = await firstFolder([
    join(dirname(bindir), 'share/postgresql/extension'),
    join(dirname(bindir), 'share/extension'),
    `/usr/share/postgresql/${manifest.postgres.major}/extension`,
  ])
  const names = new Set(databases.flatMap(({ extensions }) => extensions.map(({ name }) => name)))
  for (const name of share === undefined ? [] : names) {
    if (!(await exists(join(share!, `${name}.control`))))
      findings.push({ level: 'warning', text: `extension ${name} is not installed here` })
  }
  const libraries = (settings['shared_preload_libraries'] ?? '').split(',').map((name) => name.trim())
  for (const name of libraries.filter((name) => name !== '' && !name.includes('/'))) {
    if (await exists(join(dirname(bindir), 'lib', `${name}.so`))) continue
    if (await exists(join(dirname(bindir), 'lib/postgresql', `${name}.so`))) continue
    findings.push({
      level: 'warning',
      text: `library ${name} of shared_preload_libraries is not installed here: the cluster will not start without it, a copy does without it`,
    })
  }
  return findings
}

async function firstFolder(paths: readonly string[]): Promise<string | undefined> {
  for (const path of paths)
    if (
      await stat(path).then(
        (found) => found.isDirectory(),
        () => false,
      )
    )
      return path
  return undefined
}
