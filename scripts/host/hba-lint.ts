import { type HbaLine, literalName, pinnedRules, showHbaRule } from './hba.ts'
import { firstMatch, isUnreachable, parseAddress } from './hba-match.ts'
import type { HbaRule } from './schema.ts'

/** Something about one rule that a person should know. */
export interface HbaProblem {
  /** Of the rule, from 1. */
  readonly number: number
  readonly level: 'warning' | 'impossible'
  readonly text: string
  readonly hint: string | undefined
}

/** What rules are looked at with. */
export interface HbaSituation {
  readonly superuser: string
  readonly major: number
  /** Whether the server takes TLS connections; undefined when it cannot be asked. */
  readonly isSslOn: boolean | undefined
  /** Roles whose stored password is an md5 one, which scram-sha-256 cannot check. */
  readonly md5Roles: readonly { readonly name: string; readonly memberOf: readonly string[] }[]
}

/** What speaks against rules: what the server would refuse, what is unsafe, what never matches. Pure. */
export function lintHba(rules: readonly HbaRule[], situation: HbaSituation): HbaProblem[] {
  const refused = numbered(rules, (rule) => impossibilities(rule, situation.major))
  if (refused.length > 0) return refused
  const pins = pinnedRules(situation.superuser)
  return numbered(rules, (rule, index) => [
    ...unsafe(rule),
    ...unreachable(rule, [...pins, ...rules.slice(0, index)], situation),
    ...withoutTls(rule, situation),
    ...md5Verifiers(rule, [...pins, ...rules.slice(0, index + 1)], situation),
  ])
}

/** What is unsafe in lines that somebody else wrote, and that stay. Pure. */
export function lintForeignHba(lines: readonly HbaLine[]): Omit<HbaProblem, 'number'>[] {
  const rules = lines.flatMap(({ rule }) => (rule ? [rule] : []))
  return numbered(rules, unsafe).map(({ number: _number, ...problem }) => problem)
}

type Said = Pick<HbaProblem, 'level' | 'text'> & { readonly hint?: string }

function numbered(rules: readonly HbaRule[], look: (rule: HbaRule, index: number) => Said[]): HbaProblem[] {
  return rules.flatMap((rule, index) =>
    look(rule, index).map(({ level, text, hint }) => ({
      number: index + 1,
      level,
      text: `${JSON.stringify(shown(rule))}: ${text}`,
      hint,
    })),
  )
}

function impossibilities(rule: HbaRule, major: number): Said[] {
  const words = [...rule.database, ...rule.user]
  const texts = [...words, rule.address ?? '', ...Object.entries(rule.options).flat()]
  const problems = [
    // Nothing in the file could quote it, and what follows would be a rule of its own.
    texts.some((text) => /[\n\r\0]/.test(text)) && 'a line break or a NUL byte cannot stand in pg_hba.conf',
    words.some((word) => /^\/./.test(word)) &&
      major < 16 &&
      `regular expressions work from 16 on, this is ${major}`,
    Object.keys(rule.options).find((name) => !/^[a-z_]+$/.test(name)) !== undefined &&
      'a name of an option has small letters',
    addressProblem(rule.address),
    methodProblem(rule, major),
  ]
  return problems.filter((text) => typeof text === 'string').map((text) => ({ level: 'impossible', text }))
}

function addressProblem(address: string | undefined): string | undefined {
  const problem = address === undefined ? undefined : parseAddress(address).problem
  return problem === undefined ? undefined : `address "${address}": ${problem}`
}

function methodProblem({ type, method }: HbaRule, major: number): string | undefined {
  if (method === 'peer' && type !== 'local') return 'method "peer" is for type "local" only'
  if (method === 'gss' && type === 'local') return 'method "gss" is not for type "local"'
  if (method === 'cert' && type !== 'hostssl') return 'method "cert" is for type "hostssl" only'
  if (method === 'oauth' && major < 18) return `method "oauth" works from 18 on, this is ${major}`
  if (type === 'hostgssenc' && !['gss', 'reject', 'trust'].includes(method)) {
    return 'type "hostgssenc" has the methods "gss", "reject" and "trust" only'
  }
  return undefined
}

const METHODS: Readonly<Record<string, readonly [text: string, hint: string]>> = {
  trust: [
    'method "trust" lets everybody in as anybody',
    'Use "peer" for a socket, "scram-sha-256" for a network.',
  ],
  password: ['method "password" sends passwords in clear text', 'Use "scram-sha-256".'],
  md5: ['method "md5" can be broken, and a stolen verifier is a password', 'Use "scram-sha-256".'],
}

function unsafe(rule: HbaRule): Said[] {
  const { method, address } = rule
  const said: Said[] = []
  const warn = (text: string, hint: string) => said.push({ level: 'warning', text, hint })
  if (Object.hasOwn(METHODS, method)) warn(...(METHODS[method] as [string, string]))
  if (address !== undefined && method !== 'reject' && isEverywhere(address)) {
    warn('the whole world may try', 'Name the networks that may: "192.168.0.0/16".')
  }
  return said
}

function isEverywhere(address: string): boolean {
  return address === 'all' || parseAddress(address).range?.length === 0
}

function unreachable(rule: HbaRule, earlier: readonly HbaRule[], { major }: HbaSituation): Said[] {
  if (!isUnreachable(rule, earlier, major)) return []
  const hint =
    'The first rule that matches decides, and no other is tried after it: move this one up, or take it out.'
  return [{ level: 'warning', text: 'it is never reached, earlier rules take all of it', hint }]
}

function withoutTls(rule: HbaRule, { isSslOn }: HbaSituation): Said[] {
  if (rule.type !== 'hostssl' || isSslOn !== false) return []
  const hint = 'Set settings.ssl = true, with a certificate.'
  return [{ level: 'warning', text: 'it never matches, since the server has ssl = off', hint }]
}

/** Roles that would come to a scram rule with a verifier that it cannot check. */
function md5Verifiers(rule: HbaRule, upToIt: readonly HbaRule[], { md5Roles }: HbaSituation): Said[] {
  if (rule.method !== 'scram-sha-256') return []
  const names = md5Roles
    .filter(({ name, memberOf }) =>
      rule.database.some((word) => {
        const attempt = {
          type: rule.type === 'local' ? 'local' : rule.type === 'hostssl' ? 'ssl' : 'plain',
          database: word.startsWith('same') ? name : (literalName(word) ?? word),
          user: name,
          memberOf,
          isReplication: word === 'replication',
          ...(rule.address !== undefined && { address: exampleOf(rule.address) }),
        } as const
        return firstMatch(upToIt, attempt) === rule
      }),
    )
    .map(({ name }) => JSON.stringify(name))
  if (names.length === 0) return []
  const who = names.length === 1 ? `role ${names[0]} has` : `roles ${names.join(', ')} have`
  const hint = 'Give a password in the host file: it is stored anew, as a SCRAM verifier.'
  return [{ level: 'warning', text: `${who} an md5 verifier and cannot log in by it`, hint }]
}

/** An address that a rule is for. */
function exampleOf(address: string): string {
  return address === 'all' ? '192.0.2.1' : address.replace(/[/ ].*$/, '')
}

// The major only decides how a name that begins with a slash is quoted.
function shown(rule: HbaRule): string {
  return showHbaRule(rule, 15)
}
