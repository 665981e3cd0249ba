import type { Client } from 'pg'

/** Something that a person should know before an upgrade. Plain data, without a secret. */
export interface Finding {
  /** `error`: the upgrade would fail, or lose something. `warning`: it goes on, and somebody has to see to it. */
  readonly severity: 'error' | 'warning' | 'note'
  /** Which check it is of, such as `prepared-transaction`: never reused for something else. */
  readonly code: string
  /** Empty for what belongs to the whole cluster. */
  readonly database: string
  readonly message: string
  /** What to do, as a sentence or a command. */
  readonly hint: string
  /** Debian packages that mend it. */
  readonly packages?: readonly string[]
}

/** Something to look for by one query, whose rows name what is found. */
export interface Trap {
  readonly severity: Finding['severity']
  readonly code: string
  /** One column; nothing is found where there is no row. */
  readonly text: string
  readonly message: (names: string) => string
  readonly hint: string
}

/** Asks for each trap; what one of them finds becomes one finding. */
export async function spring(client: Client, database: string, traps: readonly Trap[]): Promise<Finding[]> {
  const findings: Finding[] = []
  for (const { severity, code, text, message, hint } of traps) {
    const { rows } = await client.query<[string]>({ text, rowMode: 'array' })
    if (rows.length === 0) continue
    findings.push({ severity, code, database, message: message(listed(rows.map(([name]) => name))), hint })
  }
  return findings
}

const SHOWN = 10

/** Names for people: the first ones, and how many more there are. Pure. */
export function listed(names: readonly string[]): string {
  const more = names.length - SHOWN
  return `${names.slice(0, SHOWN).join(', ')}${more > 0 ? ` and ${more} more` : ''}`
}

// What a role or a database sets for itself must bend no name; nothing is written, and nothing waited for.
/** Statements that a session of a check begins with. */
export const SETUP = `
  set search_path to pg_catalog; set quote_all_identifiers to off; set statement_timeout to 0; set lock_timeout to '10s';
  set default_transaction_read_only to on; set jit to off`
