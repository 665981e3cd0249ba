import type { Migration } from './file.ts'

/** One row of the ledger. */
export interface Applied {
  readonly version: string
  readonly name: string
  /** `started` without an end: a migration outside of any transaction died in its midst. */
  readonly state: 'started' | 'applied' | 'reverting'
  readonly upChecksum: string
  readonly downChecksum: string | null
  /** In which order they were applied. */
  readonly serial: number
  /** The server's time, ISO. */
  readonly appliedAt: string
  readonly appliedBy: string
}

/** How one version stands. */
export type VersionState =
  | 'applied'
  | 'pending'
  /** Lower than one that is applied: another branch was merged. */
  | 'out-of-order'
  /** Applied, and in no file. */
  | 'missing'
  /** Applied, under another name. */
  | 'renamed'
  /** Applied, and its up section is another one now. */
  | 'edited'
  /** Applied, and only its down section is another one now: nothing that was done differs. */
  | 'down-edited'
  /** Died in its midst, outside of any transaction. */
  | 'half-done'

/** One version, from the folder, the ledger, or both. */
export interface VersionLine {
  readonly version: string
  readonly name: string
  readonly state: VersionState
  readonly migration: Migration | undefined
  readonly applied: Applied | undefined
}

/** Compares a folder with a ledger, by version. Pure. */
export function versionLines(migrations: readonly Migration[], ledger: readonly Applied[]): VersionLine[] {
  const files = new Map(migrations.map((migration) => [BigInt(migration.version), migration]))
  const rows = new Map(ledger.map((applied) => [BigInt(applied.version), applied]))
  const newest = [...rows.keys()].reduce((highest, number) => (number > highest ? number : highest), -1n)
  return [...new Set([...files.keys(), ...rows.keys()])]
    .toSorted((a, b) => (a < b ? -1 : 1))
    .map((number) => {
      const migration = files.get(number)
      const applied = rows.get(number)
      const { version, name } = migration ?? applied!
      return { version, name, state: stateOf(migration, applied, newest), migration, applied }
    })
}

function stateOf(
  migration: Migration | undefined,
  applied: Applied | undefined,
  newest: bigint,
): VersionState {
  if (applied === undefined) return BigInt(migration!.version) < newest ? 'out-of-order' : 'pending'
  if (applied.state !== 'applied') return 'half-done'
  if (migration === undefined) return 'missing'
  if (applied.upChecksum !== migration.up.checksum) return 'edited'
  if (applied.name !== migration.name) return 'renamed'
  return applied.downChecksum === (migration.down?.checksum ?? null) ? 'applied' : 'down-edited'
}
