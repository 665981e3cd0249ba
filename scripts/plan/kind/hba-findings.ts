import { composeHba, type HbaSpec, parseHba, splitHba } from '../../host/hba.ts'
import { lintForeignHba, lintHba } from '../../host/hba-lint.ts'
import type { HbaRule, Host } from '../../host/schema.ts'
import type { Finding } from '../change.ts'
import { canonicalValue } from '../guc.ts'
import type { Context } from '../kind.ts'

/** Our rules of pg_hba.conf, and with `seen` the file that they are in. */
export interface HbaRules {
  readonly mode: 'block' | 'file'
  readonly rules: readonly HbaRule[]
  readonly seen?: HbaSeen
}

/** A pg_hba.conf and what the server makes of it. */
export interface HbaSeen {
  readonly path: string
  readonly text: string
  readonly mode: number
  readonly owner: string
  /** Whether the server read the file after it was last written. */
  readonly isLoaded: boolean
  readonly hasBlock: boolean
  readonly errors: readonly { readonly line: number; readonly file: string; readonly error: string }[]
  readonly isSslOn: boolean
  readonly md5Roles: readonly { readonly name: string; readonly memberOf: readonly string[] }[]
}

/** What the file is to be made of. */
export function specOf({ mode, rules }: HbaRules, { host, facts }: Context): HbaSpec {
  return { mode, rules, superuser: host.postgres.superuser, major: facts.major }
}

type Say = (level: Finding['level'], text: string, hint?: string) => Finding

/**
 * What a person should know of the rules of a host file and of the file that they go to.
 * @param name the change that these findings belong to
 */
export function hbaFindings(
  name: string,
  wanted: HbaRules,
  seen: HbaSeen | undefined,
  context: Context,
): Finding[] {
  const say: Say = (level, text, hint) => ({ kind: 'hba', name, level, text, ...(hint && { hint }) })
  const { host, facts } = context
  const { superuser, kind } = host.postgres
  if (kind === 'remote') {
    const hint = 'Take [hba] out of the host file, and say who may connect where the server is run.'
    return [say('impossible', 'a remote cluster has no files that could be written', hint)]
  }
  if (superuser !== facts.osUser) {
    const text = `the superuser "${superuser}" is not let in by peer: the server runs as OS user "${facts.osUser}"`
    const hint = 'Rules are managed only where both have the same name: take [hba] out of the host file.'
    return [say('impossible', text, hint)]
  }
  const problems = lintHba(wanted.rules, {
    superuser,
    major: facts.major,
    isSslOn: wantsSsl(host) ?? seen?.isSslOn,
    md5Roles: (seen?.md5Roles ?? []).filter((role) => !hasManagedPassword(host, role.name)),
  })
  return [
    ...problems.map(({ number, level, text, hint }) => say(level, `rule ${number}, ${text}`, hint)),
    ...(seen ? fileFindings(say, wanted, seen, context) : []),
  ]
}

function fileFindings(say: Say, wanted: HbaRules, seen: HbaSeen, context: Context): Finding[] {
  if (seen.text.includes('\uFFFD')) {
    const hint = `Find it with: grep -naxv '.*' ${seen.path}. Write it anew as UTF-8.`
    return [say('impossible', `"${seen.path}" is not UTF-8 text`, hint)]
  }
  const { loneMarker, rest } = splitHba(seen.text)
  if (loneMarker !== undefined) {
    const text = `"${seen.path}": the marker in line ${loneMarker} has lost its other half`
    return [say('impossible', text, 'Take the marker out, and what is left of the rules after it.')]
  }
  const hint = 'Correct that line: until then the server takes over no rule, and would not start again.'
  const errors = remainingErrors(wanted, seen, context).map(({ line, file, error }) =>
    say('impossible', `${file}:${line}: ${error}`, hint),
  )
  if (wanted.mode === 'file' || errors.length > 0) return errors
  const foreign = lintForeignHba(parseHba(rest, context.facts.major)).map(({ level, text, hint }) =>
    say(level, `a line that the host file does not name, ${text}`, hint),
  )
  return [...errors, ...foreign]
}

/** Errors of lines that stay: with them the server would refuse whatever we write. */
function remainingErrors(wanted: HbaRules, seen: HbaSeen, context: Context): HbaSeen['errors'] {
  const lines = seen.text.split('\n')
  const isUnchanged = composeHba(seen.text, specOf(wanted, context)) === seen.text
  const rest = wanted.mode === 'file' ? '' : splitHba(seen.text).rest
  const kept = new Set(isUnchanged ? lines : rest.split('\n'))
  return seen.errors.filter(({ line, file }) => file !== seen.path || kept.has(lines[line - 1]!))
}

function wantsSsl({ settings }: Host): boolean | undefined {
  const ssl = settings?.['ssl']
  if (typeof ssl !== 'string') return undefined
  const guc = {
    name: 'ssl',
    vartype: 'bool',
    unit: null,
    enumvals: null,
    minVal: null,
    maxVal: null,
  } as const
  return canonicalValue(guc, ssl) === 'on'
}

// Its verifier is made anew, as a SCRAM one, by the same plan.
function hasManagedPassword({ roles }: Host, name: string): boolean {
  const password = Object.hasOwn(roles, name) ? roles[name]!.password : undefined
  return password !== undefined && password !== false
}
