import type { SecretRef } from '../core/secret.ts'

/** One thing that the executor does. Plain data: a plan can be printed, saved, compared, and run. */
export type Step =
  /**
   * A statement. `transaction: false` is for those that PostgreSQL refuses inside one. With `secret`
   * the text says `password :verifier` and the executor puts the SCRAM verifier there.
   */
  | {
      readonly run: 'sql'
      readonly database: string
      readonly text: string
      readonly transaction: boolean
      readonly secret?: { readonly role: string; readonly ref: SecretRef }
    }
  /**
   * Replaces a file atomically. With `check` the server judges it before it counts: a file that the
   * server refuses is put back as it was. `owner` is an OS user; its primary group goes along.
   */
  | {
      readonly run: 'write'
      readonly path: string
      readonly content: string
      readonly mode: number
      readonly owner: string
      readonly check?: 'settings' | 'hba'
    }
  /** Makes a folder; one that is there gets this owner and mode. */
  | { readonly run: 'folder'; readonly path: string; readonly mode: number; readonly owner: string }
  /** Runs a program, `as` an OS user (default: as is). Must be idempotent or guarded by its kind's `actual`. */
  | { readonly run: 'exec'; readonly argv: readonly string[]; readonly as?: string }
  /** Starts the cluster and waits until it answers. */
  | { readonly run: 'start' }
  /** Makes the server read its files again and proves that it did. */
  | { readonly run: 'reload' }
  /** Restarts; when the server does not come up, files written in this run are put back first. */
  | { readonly run: 'restart' }

/** What a change may cost. The operator names it (`--allow restarts-server`) to let it happen. */
export const HAZARDS = {
  'restarts-server': 'every connection is cut while the server restarts',
  'deletes-data': 'data is gone afterwards',
  'drops-role': 'a role is gone afterwards',
  'moves-data': 'files are copied while the database is locked',
  'rewrites-hba': 'rules of pg_hba.conf that the host file does not name are gone',
} as const

export type Hazard = keyof typeof HAZARDS

/** What brings one thing on the host from what it is to what the host file wants. */
export interface Change {
  /** The kind's name: `role`, `hba`, ... */
  readonly kind: string
  /** Which one: `"xtelem"`, or `"xtelem: telem_reader"` for things inside a database. */
  readonly name: string
  /** Printed as `+`, `~` or `-`. */
  readonly action: 'create' | 'alter' | 'drop'
  /** For people, without the name: `connection limit 10 -> 20`. Never holds a secret. */
  readonly line: string
  readonly hazards: readonly Hazard[]
  readonly steps: readonly Step[]
}

/** Something that a person should know and that no step mends. */
export interface Finding {
  readonly kind: string
  readonly name: string
  /** `impossible`: what is wanted cannot be reached; `apply` refuses. `warning`: it goes on. */
  readonly level: 'warning' | 'impossible'
  readonly text: string
  readonly hint?: string
}
