import { stat } from 'node:fs/promises'
import { join } from 'node:path'
import { confValue } from '../../cluster/debian.ts'
import { userName } from '../../cluster/connect.ts'
import { readText, readTextIfAny } from '../../core/file.ts'
import {
  composeHba,
  type HbaLine,
  type HbaSpec,
  parseHba,
  pinnedRules,
  renderHbaRule,
  showHbaRule,
  splitHba,
} from '../../host/hba.ts'
import type { HbaRule, Host } from '../../host/schema.ts'
import type { Context, Kind, Observe } from '../kind.ts'
import { hbaFindings, type HbaRules, type HbaSeen, specOf } from './hba-findings.ts'
import { isLoaded } from './setting-seen.ts'

const FILE = 'pg_hba.conf'

// What Debian puts there, which is what our first write finds in a cluster that is yet to be made.
const NEW_CLUSTER = [
  'local   all             all                                     peer',
  'host    all             all             127.0.0.1/32            scram-sha-256',
  'host    all             all             ::1/128                 scram-sha-256',
  'local   replication     all                                     peer',
  'host    replication     all             127.0.0.1/32            scram-sha-256',
  'host    replication     all             ::1/128                 scram-sha-256',
  '',
].join('\n')

/**
 * Who may connect: rules of pg_hba.conf in the order of the host file. The superuser's own, by peer,
 * always stand first; then come ours, then the administrator's, of which not a byte is touched in
 * mode `block`. Not looked at when the host file has no `[hba]`.
 */
export const hba: Kind<HbaRules> = {
  name: 'hba',

  wanted({ hba }) {
    return new Map(hba === undefined ? [] : [[FILE, { mode: hba.mode, rules: hba.rules }]])
  },

  async actual(observe) {
    if (!observe.cluster || observe.facts.configDir === '') return new Map()
    const seen = await look(observe)
    const { block, rest } = splitHba(seen.text)
    const rules = ownRules(block ?? '', observe.host, observe.facts.major)
    return new Map([[FILE, { mode: rest.trim() === '' ? 'file' : 'block', rules, seen }]])
  },

  change(name, wanted, actual, context) {
    const spec = specOf(wanted, context)
    const before = actual?.seen?.text ?? NEW_CLUSTER
    const content = composeHba(before, spec)
    const file = fileOf(actual?.seen, context)
    const needsWrite = content !== actual?.seen?.text
    if (!needsWrite && file.isLoaded) return undefined
    const { lines, removesOthers } = differences(before, content, spec)
    return {
      kind: 'hba',
      name,
      action: file.hasBlock ? 'alter' : 'create',
      line: listed(needsWrite ? lines : ['on disk, but the server did not read it yet']),
      hazards: removesOthers && actual ? ['rewrites-hba'] : [],
      steps: needsWrite ? [{ run: 'write', ...file.write, content, check: 'hba' }, RELOAD] : [RELOAD],
    }
  },

  findings(name, wanted, actual, context) {
    return hbaFindings(name, wanted, actual?.seen, context)
  },

  // A file without our block is the administrator's: whoever wants to manage it writes rules for it.
  exported(actual) {
    const found = actual.get(FILE)
    if (!found?.seen?.hasBlock) return {}
    return { hba: { mode: found.mode, rules: found.rules.map(exportedRule) } }
  },
}

const RELOAD = { run: 'reload' } as const

function fileOf(
  seen: HbaSeen | undefined,
  { facts }: Context,
): {
  write: { path: string; mode: number; owner: string }
  isLoaded: boolean
  hasBlock: boolean
} {
  if (!seen) {
    const write = { path: join(facts.configDir, FILE), mode: 0o640, owner: facts.osUser }
    return { write, isLoaded: false, hasBlock: false }
  }
  const { path, mode, owner, isLoaded, hasBlock } = seen
  return { write: { path, mode, owner }, isLoaded, hasBlock }
}

/** Our rules without the pinned ones, which nobody has to write. */
function ownRules(block: string, { postgres }: Host, major: number): HbaRule[] {
  const pins = new Set(pinnedRules(postgres.superuser).map((rule) => renderHbaRule(rule, major)))
  const lines = parseHba(block, major)
  return lines.flatMap(({ rule, text }, index) => (rule && !(index < 2 && pins.has(text)) ? [rule] : []))
}

function exportedRule({ type, database, user, address, method, options, comment }: HbaRule): object {
  return {
    type,
    database: database.length === 1 ? database[0] : database,
    user: user.length === 1 ? user[0] : user,
    ...(address !== undefined && { address }),
    method,
    ...(Object.keys(options).length > 0 && { options }),
    ...(comment !== undefined && { comment }),
  }
}

interface Differences {
  /** For people, each beginning with what happens to a rule. */
  readonly lines: readonly string[]
  /** Whether rules go that the host file does not name and that were never ours. */
  readonly removesOthers: boolean
}

function differences(before: string, after: string, { major }: HbaSpec): Differences {
  const old = parseHba(before, major)
  const young = parseHba(after, major)
  const [had, has] = [new Set(old.map(({ text }) => text)), new Set(young.map(({ text }) => text))]
  const added = young.filter(({ text }) => !had.has(text))
  const removed = old.filter(({ text }) => !has.has(text))
  const others = new Set(parseHba(splitHba(before).rest, major).map(({ text }) => text))
  const lines = [
    ...added.map((line) => `add ${shown(line, major)}`),
    ...removed.map((line) => `remove ${shown(line, major)}`),
  ]
  return {
    lines: lines.length > 0 ? lines : ['the order of rules, or comments'],
    removesOthers: removed.some(({ text }) => others.has(text)),
  }
}

function shown({ rule, text }: HbaLine, major: number): string {
  return rule ? showHbaRule(rule, major) : text
}

function listed(lines: readonly string[]): string {
  return lines.length === 1 ? lines[0]! : `${lines.length} lines\n    ${lines.join('\n    ')}`
}

async function look(observe: Observe): Promise<HbaSeen> {
  const { configDir } = observe.facts
  const [row] = await observe.query<{ path: string; ssl: string }>(
    'postgres',
    `select current_setting('hba_file') as path, current_setting('ssl') as ssl`,
  )
  const path = row?.path ?? (await configuredPath(configDir))
  const text = await readText(path)
  const { mode, uid } = await stat(path)
  return {
    path,
    text,
    mode: mode & 0o777,
    owner: userName(uid),
    isLoaded: await isLoaded(observe, path),
    hasBlock: splitHba(text).block !== undefined,
    // The view reads the file as it is now, not the rules in force. With a type, the text is a remark only.
    errors: await observe.query(
      'postgres',
      `select line_number as line, coalesce(to_jsonb(r)->>'file_name', $1) as file, error
         from pg_hba_file_rules r where error is not null and type is null order by 2, 1`,
      [path],
    ),
    isSslOn: row?.ssl === 'on',
    md5Roles: await observe.query('postgres', MD5_ROLES),
  }
}

async function configuredPath(configDir: string): Promise<string> {
  const text = (await readTextIfAny(join(configDir, 'postgresql.conf'))) ?? ''
  return confValue(text, 'hba_file') ?? join(configDir, FILE)
}

const MD5_ROLES = `
  select r.rolname::text as name,
         array(select b.rolname::text from pg_roles b
                where b.oid <> r.oid and not r.rolsuper and pg_has_role(r.oid, b.oid, 'member')
                order by 1) as "memberOf"
    from pg_authid r where r.rolcanlogin and r.rolpassword like 'md5%' order by 1`
