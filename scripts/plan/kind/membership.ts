import { ident, show } from '../../cluster/sql.ts'
import type { Host } from '../../host/schema.ts'
import type { Change, Finding, Step } from '../change.ts'
import type { Context, Facts, Kind, Observe } from '../kind.ts'

/** One row of pg_auth_members. From 16 on there may be several of one membership, each by another grantor. */
export interface MembershipGrant {
  /** Undefined: gone, which is possible up to 15. */
  readonly grantor: string | undefined
  readonly admin: boolean
  /** Up to 15 the member's own attribute, and `true` for `set`. */
  readonly inherit: boolean
  readonly set: boolean
}

/** That one role is a member of another, as it is wanted or as it is. */
export interface Membership {
  readonly member: string
  readonly role: string
  /** Wanted; undefined is not looked at. */
  readonly options?: {
    readonly admin: boolean
    readonly inherit: boolean | undefined
    readonly set: boolean | undefined
  }
  /** Actual. */
  readonly grants: readonly MembershipGrant[]
  /** Actual: what the member's attribute `inherit` makes of a grant that does not say. */
  readonly inheritsByDefault?: boolean
  /** Actual: the member is the role that initdb made. */
  readonly isOfBootstrap?: boolean
  /** Actual: the server has no role of this name to be a member of. */
  readonly hasNoRole?: boolean
}

/** Memberships of roles in roles. Comes after all roles are there, so their order does not matter. */
export const membership: Kind<Membership> = {
  name: 'membership',
  wanted,
  actual,
  change: (name, wanted, actual, { facts }) =>
    actual === undefined || actual.grants.length === 0
      ? grantMembership(name, wanted, facts)
      : alterMembership(name, wanted, actual, facts),
  drop: revokeMembership,
  findings,
  exported,
}

function wanted(host: Host): Map<string, Membership> {
  const found = new Map<string, Membership>()
  for (const [member, spec] of Object.entries(host.roles)) {
    if (spec.state !== 'present') continue
    for (const { role, admin, ...rest } of spec.member_of) {
      const { inherit, set } = rest as { inherit?: boolean; set?: boolean }
      found.set(keyOf(member, role), { member, role, options: { admin, inherit, set }, grants: [] })
    }
  }
  return found
}

interface Row extends MembershipGrant {
  readonly member: string
  readonly role: string
  readonly by: string | null
  readonly inherits: boolean
  readonly is_of_bootstrap: boolean
}

async function actual(observe: Observe): Promise<Map<string, Membership>> {
  if (!observe.isRunning) return new Map()
  const options = hasOptions(observe.facts)
    ? 'm.inherit_option as inherit, m.set_option as set'
    : 'member.rolinherit as inherit, true as set'
  const rows = await observe.query<Row>(
    'postgres',
    `select member.rolname::text as member, role.rolname::text as role, grantor.rolname::text as by,
            m.admin_option as admin, ${options},
            member.rolinherit as inherits, member.oid = 10 as is_of_bootstrap
       from pg_auth_members m
       join pg_roles member on member.oid = m.member
       join pg_roles role on role.oid = m.roleid
       left join pg_roles grantor on grantor.oid = m.grantor
      where member.rolname !~ '^pg_' order by 1, 2, 3`,
  )
  const found = new Map<string, Membership>()
  for (const { member, role, by, admin, inherit, set, inherits, is_of_bootstrap: isOfBootstrap } of rows) {
    const key = keyOf(member, role)
    const grants = [...(found.get(key)?.grants ?? []), { grantor: by ?? undefined, admin, inherit, set }]
    found.set(key, { member, role, grants, inheritsByDefault: inherits, isOfBootstrap })
  }
  return new Map([...found, ...(await withoutRole(observe))])
}

/** Wanted memberships in roles that the server does not have. */
async function withoutRole(observe: Observe): Promise<[string, Membership][]> {
  const all = [...wanted(observe.host)]
  if (all.length === 0) return []
  const rows = await observe.query<{ name: string }>(
    'postgres',
    'select name from unnest($1::text[]) as name where not exists (select from pg_roles where rolname = name)',
    [[...new Set(all.map(([, { role }]) => role))]],
  )
  const missing = new Set(rows.map(({ name }) => name))
  return all
    .filter(([, { role }]) => missing.has(role))
    .map(([key, { member, role }]) => [key, { member, role, grants: [], hasNoRole: true }])
}

function grantMembership(name: string, wanted: Membership, facts: Facts): Change {
  const { admin, inherit, set } = wanted.options!
  const words = [
    ...(admin ? ['admin option'] : []),
    ...(inherit === undefined ? [] : [`inherit ${inherit}`]),
    ...(set === undefined ? [] : [`set ${set}`]),
  ]
  const line = words.length === 0 ? 'granted' : `granted with ${words.join(', ')}`
  return change(name, 'create', line, [sql(grantText(wanted, facts))])
}

function alterMembership(
  name: string,
  wanted: Membership,
  actual: Membership,
  facts: Facts,
): Change | undefined {
  const revokes: Step[] = []
  const lines: string[] = []
  let needsGrant = false
  for (const key of ['admin', 'inherit', 'set'] as const) {
    const value = wanted.options![key]
    const having = actual.grants.filter((grant) => grant[key])
    // Up to 15 the other two do not exist; findings() says so.
    if (value === undefined || value === having.length > 0 || (key !== 'admin' && !hasOptions(facts)))
      continue
    lines.push(value ? `${key} option` : `no ${key} option`)
    if (value) needsGrant = true
    else revokes.push(...having.map((grant) => sql(revokeText(actual, grant, facts, `${key} option for `))))
  }
  if (lines.length === 0) return undefined
  return change(name, 'alter', lines.join(', '), [
    ...revokes,
    ...(needsGrant ? [sql(grantText(wanted, facts))] : []),
  ])
}

function revokeMembership(name: string, actual: Membership, { host, facts }: Context): Change | undefined {
  const spec = Object.hasOwn(host.roles, actual.member) ? host.roles[actual.member] : undefined
  if (spec?.state !== 'present' || spec.manage !== 'exact') return undefined
  return change(
    name,
    'drop',
    'revoked',
    actual.grants.map((grant) => sql(revokeText(actual, grant, facts))),
  )
}

/** What cannot be, said before anything is changed. */
function findings(
  name: string,
  wanted: Membership,
  actual: Membership | undefined,
  context: Context,
): Finding[] {
  const { host, facts } = context
  const { member, role, options } = wanted
  const say = (text: string, hint: string): Finding => ({
    kind: 'membership',
    name,
    level: 'impossible',
    text,
    hint,
  })
  const found: Finding[] = []
  const spec = Object.hasOwn(host.roles, role) ? host.roles[role] : undefined
  if (role === 'pg_database_owner') {
    found.push(
      say('its only member is the owner of each database', `Make ${show(member)} the owner instead.`),
    )
  }
  if (!hasOptions(facts) && (options?.inherit !== undefined || options?.set !== undefined)) {
    found.push(
      say(
        `"inherit" and "set" need PostgreSQL 16, the cluster is of major ${facts.major}`,
        `Use the attribute "inherit" of role ${show(member)}.`,
      ),
    )
  }
  if (spec?.state === 'absent' || (spec === undefined && actual?.hasNoRole === true)) {
    const why = spec ? 'is to be absent' : 'is not there'
    found.push(say(`role ${show(role)} ${why}`, `Add it to the host file: [roles.${ident(role)}]`))
  }
  const circle = circleFrom(host, member, role)
  if (circle) {
    found.push(
      say(`a role cannot be a member of itself: ${circle.map(show).join(' -> ')}`, 'Take one of them out.'),
    )
  }
  return found
}

/** The way from a role back to the member, by the memberships of the host file. */
function circleFrom(host: Host, member: string, role: string): string[] | undefined {
  const seen = new Set<string>()
  const walk = (at: string): string[] | undefined => {
    if (at === member) return [at]
    if (seen.has(at) || !Object.hasOwn(host.roles, at)) return undefined
    seen.add(at)
    for (const next of host.roles[at]!.member_of) {
      const rest = walk(next.role)
      if (rest) return [at, ...rest]
    }
    return undefined
  }
  const back = walk(role)
  return back && [member, ...back]
}

function exported(actual: ReadonlyMap<string, Membership>, { facts }: Context): Record<string, unknown> {
  const roles: Record<string, { member_of: unknown[] }> = {}
  for (const found of actual.values()) {
    if (found.isOfBootstrap || found.grants.length === 0 || found.member === '__proto__') continue
    const any = (key: 'admin' | 'inherit' | 'set') => found.grants.some((grant) => grant[key])
    const options = {
      ...(any('admin') ? { admin: true } : {}),
      ...(hasOptions(facts) && any('inherit') !== found.inheritsByDefault ? { inherit: any('inherit') } : {}),
      ...(hasOptions(facts) && !any('set') ? { set: false } : {}),
    }
    const entry = Object.keys(options).length === 0 ? found.role : { role: found.role, ...options }
    if (Object.hasOwn(roles, found.member)) roles[found.member]!.member_of.push(entry)
    else roles[found.member] = { member_of: [entry] }
  }
  return { roles }
}

// Says every option, since a grant by a new grantor gets defaults for those that are left out.
function grantText({ role, member, options }: Membership, facts: Facts): string {
  const text = `grant ${ident(role)} to ${ident(member)}`
  const { admin, inherit, set } = options!
  if (!hasOptions(facts)) return admin ? `${text} with admin option` : text
  const words = Object.entries({ admin, inherit, set }).flatMap(([key, value]) =>
    value === undefined ? [] : [`${key} ${value}`],
  )
  return `${text} with ${words.join(', ')}`
}

function revokeText({ role, member }: Membership, grant: MembershipGrant, facts: Facts, what = ''): string {
  const by = hasOptions(facts) && grant.grantor !== undefined ? ` granted by ${ident(grant.grantor)}` : ''
  return `revoke ${what}${ident(role)} from ${ident(member)}${by}`
}

/** Options `inherit` and `set`, and grantors as a part of a membership's key, came with 16. */
function hasOptions(facts: Facts): boolean {
  return facts.major >= 16
}

function keyOf(member: string, role: string): string {
  return `${show(member)} in ${show(role)}`
}

function change(name: string, action: Change['action'], line: string, steps: readonly Step[]): Change {
  return { kind: 'membership', name, action, line, hazards: [], steps }
}

function sql(text: string): Step {
  return { run: 'sql', database: 'postgres', text, transaction: true }
}
