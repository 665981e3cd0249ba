/**
 * Every way this toolkit fails on purpose. The number is the exit code and is never reused.
 * The text is what `--help` prints for it.
 */
export const CODES = {
  usage: [2, 'the command line is wrong'],
  'host-file': [10, 'the host file does not describe a host'],
  'file-unreadable': [11, 'a file cannot be read or written'],
  secret: [12, 'a secret cannot be had, or is no secret at all'],
  'not-permitted': [13, 'another user is needed, or a program is missing'],
  'lock-held': [20, 'another run holds the same thing'],
  'command-failed': [25, 'a program that was run did not succeed'],
  'server-unreachable': [30, 'no server answers'],
  'server-denied': [31, 'the server refuses the connection'],
  'server-failed': [32, 'the server refuses a statement'],
  'cluster-mismatch': [33, 'the cluster is not the one that the host file names'],
  'hazard-refused': [40, 'a change has a hazard that was not allowed'],
  'plan-stale': [41, 'the host has moved on since the plan was made'],
  'plan-impossible': [42, 'what is wanted cannot be reached from what is there'],
  'change-undone': [43, 'a change was refused by the server and taken back'],
  'store-missing': [50, 'the store has no such key'],
  'store-denied': [51, 'the store refuses access'],
  'store-unreachable': [52, 'the store does not answer'],
  'backup-missing': [53, 'there is no such backup'],
  'backup-damaged': [54, 'a backup is not what its manifest says'],
  'backup-failed': [55, 'a backup could not be completed'],
  'target-not-empty': [56, 'a restore would overwrite something'],
  'no-space': [57, 'there is not enough free space'],
  'wal-differs': [58, 'a segment of WAL in the store is not the one that the server has'],
  'wal-missing': [59, 'some WAL that is needed is not there'],
  'verify-failed': [60, 'two things that should be equal are not'],
  'target-unreached': [61, 'a recovery ended before its target'],
  'wrong-key': [62, 'what is encrypted cannot be read with this identity'],
  'migration-invalid': [63, 'a file of a migration is not as it should be'],
  'migration-failed': [64, 'the server refuses a migration'],
  'migration-diverged': [65, 'the files of migrations and what was applied tell different stories'],
  bug: [70, 'should not happen: please report it'],
  interrupted: [130, 'ended by a signal'],
} as const satisfies Record<string, readonly [number, string]>

/** The name of one way to fail: a key of {@link CODES}. */
export type Code = keyof typeof CODES

/**
 * An expected failure. `message` says what was attempted, what is and what should be, in lower case
 * without a final stop; `hint` is the next command, or the question to ask, as a sentence.
 */
export class Fail extends Error {
  readonly code: Code
  readonly hint: string | undefined

  constructor(code: Code, message: string, options: { hint?: string | undefined; cause?: unknown } = {}) {
    super(message, options.cause === undefined ? undefined : { cause: options.cause })
    this.name = 'Fail'
    this.code = code
    this.hint = options.hint
  }

  /** The number that a script ends with. */
  get exitCode(): number {
    return CODES[this.code][0]
  }
}

/** The text of anything that was thrown. */
export function messageOf(error: unknown): string {
  return error instanceof Error ? error.message : String(error)
}
