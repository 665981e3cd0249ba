import { z } from 'zod'
import { parseSize } from '../core/quantity.ts'
import { archive, backup, encryption, store } from './backup-schema.ts'
import { reingest } from './reingest-schema.ts'
import { notify, scheduleDefaults } from './schedule-schema.ts'
import { upgrade } from './upgrade-schema.ts'
import { absolutePath, databaseName, duration, name, secret, size } from './value.ts'

// The host file as options are data: this schema gives the parser, conf/host.schema.json and
// conf/reference.toml. Keys keep the file's own snake_case names inside the program too.

// Reserved by the server: src/backend/catalog/catalog.c (IsReservedName), src/backend/utils/adt/acl.c (check_rolespec_name).
const roleName = name
  .refine((text) => !text.startsWith('pg_'), 'role names that start with "pg_" are reserved by PostgreSQL')
  .refine((text) => !['public', 'none'].includes(text), 'this role name is reserved by PostgreSQL')
const tablespaceName = name.refine(
  (text) => !text.startsWith('pg_'),
  'tablespace names that start with "pg_" are reserved by PostgreSQL',
)
const schemaName = name
  .refine(
    (text) => !text.startsWith('pg_') && text !== 'information_schema',
    'this schema name is reserved by PostgreSQL',
  )
  .refine((text) => text !== 'howdah', 'this schema is the one of the ledger of migrations')
const settingName = z
  .string()
  .regex(/^[A-Za-z_][A-Za-z0-9_$]*(\.[A-Za-z_][A-Za-z0-9_$]*)?$/, 'this is no name of a setting')
const settingValue = z
  .union([z.string(), z.number(), z.boolean(), z.array(z.string())])
  .transform((value) =>
    typeof value === 'boolean' ? (value ? 'on' : 'off') : Array.isArray(value) ? value : String(value),
  )
const settings = z.record(settingName, settingValue)

const oneOrMore = (item: z.ZodString) =>
  z.union([item, z.array(item).min(1)]).transform((value) => (typeof value === 'string' ? [value] : value))

const host = z.strictObject({
  name: z
    .string()
    .regex(/^[A-Za-z0-9][A-Za-z0-9_.-]*$/, 'a host name has letters, digits, ".", "_" and "-"')
    .describe('names this host in the store'),
  state_dir: absolutePath.default('/var/lib/howdah').describe('journals, spools and records'),
})

// A power of two (src/include/access/xlog_internal.h, IsValidWalSegSize).
const SEGMENTS = new Set<number | undefined>(Array.from({ length: 11 }, (_, power) => 1024 ** 2 * 2 ** power))

// The first major whose initdb has the provider.
const LOCALE_PROVIDERS = { libc: 0, icu: 15, builtin: 17 } as const

const initdb = z.strictObject({
  locale: z.string().default('C.UTF-8'),
  locale_provider: z
    .enum(['libc', 'icu', 'builtin'])
    .optional()
    .describe('default: libc; icu from 15, builtin from 17'),
  icu_locale: z.string().optional(),
  encoding: z.string().default('UTF8'),
  data_checksums: z.boolean().default(true),
  wal_segsize: size
    .refine(
      (text) => SEGMENTS.has(parseSize(text)),
      'a WAL segment has 1MB, 2MB, 4MB and so on, up to 1024MB',
    )
    .optional()
    .describe('default: 16MB'),
})

const tune = z.strictObject({
  memory: size.optional().describe('default: what this host, or its cgroup, has'),
  cpus: z.int().positive().optional().describe('default: those of this host, or of its cgroup'),
  connections: z.int().positive().default(100),
  storage: z.enum(['ssd', 'hdd', 'san', 'nvme']).default('ssd'),
  workload: z.enum(['web', 'oltp', 'dw', 'mixed']).default('mixed'),
})

/** Why a URL is none that a server can be reached by; never quotes it, since it may hold a password. */
function urlProblem(text: string): string | undefined {
  const url = URL.parse(text)
  if (url === null) return 'this is no URL: it looks like postgres://user@db.example.org:5432/'
  if (url.password !== '' || url.searchParams.has('password')) {
    return 'a URL must not hold a password: use password = { file = ... }'
  }
  if (url.hostname === '' && !url.searchParams.has('host')) return 'a URL needs a host: postgres://user@host/'
  if (/%(?![0-9a-f]{2})/i.test(text)) return 'a "%" in a URL is written as "%25"'
  return undefined
}

const postgres = z
  .strictObject({
    kind: z.enum(['debian', 'private', 'remote']).default('debian'),
    major: z.int().min(13, 'PostgreSQL 13 is the oldest that is supported').max(99).optional(),
    cluster: z
      .string()
      .regex(
        /^[A-Za-z0-9_][A-Za-z0-9_.]*$/,
        'a cluster name has letters, digits, "_" and ".": "-" breaks unit names',
      )
      .default('main'),
    port: z.int().min(1).max(65_535).default(5432),
    superuser: name.default('postgres'),
    packages: z
      .array(z.string().regex(/^[a-z0-9][a-z0-9+.:-]*$/, 'this is no name of a Debian package'))
      .default([]),
    data_dir: absolutePath
      .optional()
      .describe('private; debian: default /var/lib/postgresql/<major>/<cluster>'),
    bindir: absolutePath.optional().describe('private: default /usr/lib/postgresql/<major>/bin'),
    socket_dir: absolutePath
      .optional()
      .describe('private: default <data_dir>/../socket; debian: /var/run/postgresql'),
    url: z
      .string()
      .regex(/^postgres(ql)?:\/\//, 'a URL begins with postgres://')
      .optional(),
    password: secret.optional().describe('remote: the password of the user in the URL'),
    sslmode: z.enum(['disable', 'prefer', 'require', 'verify-ca', 'verify-full']).optional(),
    ca_file: absolutePath.optional(),
    initdb: initdb.prefault({}),
    tune: tune.optional().describe('computed settings; [settings] wins over them'),
  })
  .superRefine((value, context) => {
    const need = (key: 'major' | 'data_dir' | 'url') => {
      if (value[key] === undefined) {
        context.addIssue({
          code: 'custom',
          path: [key],
          message: `kind "${value.kind}" needs the key "${key}"`,
        })
      }
    }
    const refuse = (
      key: 'url' | 'password' | 'sslmode' | 'ca_file' | 'data_dir' | 'bindir' | 'tune',
      only: string,
    ) => {
      if (value[key] !== undefined) {
        context.addIssue({ code: 'custom', path: [key], message: `"${key}" is for kind "${only}"` })
      }
    }
    if (value.kind === 'remote') {
      need('url')
      for (const key of ['data_dir', 'bindir', 'tune'] as const) refuse(key, 'private')
      const message = value.url === undefined ? undefined : urlProblem(value.url)
      if (message !== undefined) context.addIssue({ code: 'custom', path: ['url'], message })
      return
    }
    need('major')
    const { major, initdb } = value
    const since = LOCALE_PROVIDERS[initdb.locale_provider ?? 'libc']
    if (major !== undefined && major < since) {
      const message = `locale provider "${initdb.locale_provider}" came with PostgreSQL ${since}, this is ${major}`
      context.addIssue({ code: 'custom', path: ['initdb', 'locale_provider'], message })
    }
    if (value.kind === 'private') need('data_dir')
    else refuse('bindir', 'private')
    for (const key of ['url', 'password', 'sslmode', 'ca_file'] as const) refuse(key, 'remote')
  })

const hbaRule = z
  .strictObject({
    type: z.enum(['local', 'host', 'hostssl', 'hostnossl', 'hostgssenc', 'hostnogssenc']),
    database: oneOrMore(z.string().min(1)).prefault('all'),
    user: oneOrMore(z.string().min(1)).prefault('all'),
    address: z
      .string()
      .min(1)
      .optional()
      .describe('CIDR, host name, "all", "samehost" or "samenet"; not for type "local"'),
    method: z.enum([
      'scram-sha-256',
      'peer',
      'reject',
      'cert',
      'md5',
      'password',
      'trust',
      'ident',
      'gss',
      'sspi',
      'ldap',
      'radius',
      'pam',
      'bsd',
      'oauth',
    ]),
    options: z.record(z.string(), z.union([z.string(), z.number()]).transform(String)).default({}),
    comment: z.string().optional(),
  })
  .superRefine((rule, context) => {
    const isLocal = rule.type === 'local'
    if (isLocal === (rule.address === undefined)) return
    const message = isLocal ? 'type "local" takes no address' : `type "${rule.type}" needs an address`
    context.addIssue({ code: 'custom', path: ['address'], message })
  })

const hba = z.strictObject({
  mode: z
    .enum(['block', 'file'])
    .default('block')
    .describe('block: our lines between markers; file: the whole file'),
  rules: z.array(hbaRule).default([]),
})

const tablespace = z.strictObject({
  location: absolutePath,
  owner: roleName.optional().describe('default: the superuser'),
  options: z
    .record(z.string().regex(/^[a-z_]+$/), z.union([z.number(), z.string()]).transform(String))
    .default({}),
  mount: z
    .boolean()
    .default(false)
    .describe('refuse unless the location is on a mounted file system of its own'),
})

const membership = z
  .union([
    name,
    z.strictObject({
      role: name,
      admin: z.boolean().default(false),
      inherit: z.boolean().optional().describe('PostgreSQL 16 and newer'),
      set: z.boolean().optional().describe('PostgreSQL 16 and newer'),
    }),
  ])
  .transform((value) => (typeof value === 'string' ? { role: value, admin: false } : value))

const role = z
  .strictObject({
    state: z.enum(['present', 'absent']).default('present'),
    reassign_to: name.optional().describe('with state = "absent": who gets what the role owns'),
    login: z.boolean().default(false),
    superuser: z.boolean().default(false),
    createdb: z.boolean().default(false),
    createrole: z.boolean().default(false),
    inherit: z.boolean().default(true),
    replication: z.boolean().default(false),
    bypassrls: z.boolean().default(false),
    connection_limit: z.int().min(-1).default(-1),
    valid_until: z.string().optional().describe('a time with an offset, or "infinity"'),
    password: z
      .union([secret, z.literal(false)])
      .optional()
      .describe('false: no password; left out: not looked at'),
    member_of: z.array(membership).default([]),
    settings: settings.default({}),
    manage: z
      .enum(['exact', 'add'])
      .default('add')
      .describe('what to do with memberships and settings not named here'),
    comment: z.string().optional(),
  })
  .superRefine((value, context) => {
    if (value.valid_until === undefined || value.valid_until === 'infinity') return
    const hasOffset = /\d:\d\d.*(Z|[+-]\d\d(:?\d\d)?)$/.test(value.valid_until)
    if (hasOffset && !Number.isNaN(Date.parse(value.valid_until))) return
    context.addIssue({
      code: 'custom',
      path: ['valid_until'],
      message: 'a time looks like "2027-01-01T00:00:00Z": with its offset',
    })
  })

const extension = z
  .union([
    name,
    z.strictObject({
      name,
      version: z.string().optional().describe('"latest", or a version'),
      schema: name.optional(),
    }),
  ])
  .transform((value) => (typeof value === 'string' ? { name: value } : value))

const grant = z.strictObject({
  to: oneOrMore(z.string().min(1)).describe('roles; "public" is everybody'),
  on: z.enum(['database', 'schema', 'tables', 'sequences', 'functions', 'types']),
  schema: oneOrMore(name).prefault('*').describe('default "*": every schema that is not the system\'s'),
  objects: z.array(name).optional().describe('default: all of them; functions by name, all their signatures'),
  privileges: z
    .array(z.string().regex(/^[A-Za-z ]+$/))
    .min(1)
    .describe('such as "SELECT", or "ALL"'),
  future: z.boolean().default(true).describe('objects made later too, by default privileges'),
  creators: z
    .array(name)
    .optional()
    .describe('whose future objects; default: the owners of the database and of its schemas'),
  grantable: z.boolean().default(false),
})

const migrations = z.strictObject({
  dir: z
    .string()
    .min(1)
    .regex(/^[^\0\n]+$/, 'a path must not hold a NUL byte or a line break')
    .describe(
      'the folder of the files: from the root, from that of the host file, or from that of this program',
    ),
  role: roleName.optional().describe('who owns what they make; default: the owner of the database'),
  mirror_table: z
    .string()
    .regex(
      /^[A-Za-z_][A-Za-z0-9_]*(\.[A-Za-z_][A-Za-z0-9_]*)?$/,
      'a table looks like "public.__schema_migrations"',
    )
    .optional()
    .describe('a table with a column "version" in which an application looks for them'),
  lock_timeout: duration
    .default('5s')
    .describe('how long a statement waits for a lock before it is tried again'),
  tries: z.int().positive().default(10),
})

const database = z.strictObject({
  owner: name.optional().describe('default: the superuser'),
  encoding: z.string().optional(),
  locale: z.string().optional(),
  template: name.optional(),
  tablespace: name.optional().describe('default: pg_default'),
  connection_limit: z.int().min(-1).default(-1),
  allow_connections: z.boolean().default(true),
  settings: settings.default({}),
  extensions: z.array(extension).default([]),
  migrations: migrations.optional().describe('left out: no schema is migrated'),
  public: z
    .enum(['default', 'revoke', 'legacy'])
    .default('default')
    .describe('schema public: as it is; nothing for PUBLIC; USAGE and CREATE for PUBLIC'),
  schemas: z.record(schemaName, z.strictObject({ owner: name.optional() })).default({}),
  grants: z.array(grant).default([]),
  manage: z
    .enum(['exact', 'add'])
    .default('add')
    .describe('what to do with privileges of the named roles not named here'),
  comment: z.string().optional(),
})

/** The whole file. Every default is filled in here and nowhere else. */
export const hostSchema = z.strictObject({
  format: z.literal(1),
  host,
  postgres,
  settings: settings.optional().describe('left out together with postgres.tune: no setting is touched'),
  hba: hba.optional().describe('left out: pg_hba.conf is not touched'),
  tablespaces: z.record(tablespaceName, tablespace).default({}),
  roles: z.record(roleName, role).default({}),
  databases: z.record(databaseName, database).default({}),
  store: z.record(z.string().regex(/^[a-z0-9_-]+$/), store).default({}),
  encryption: encryption.optional().describe('left out: backups and WAL are stored in clear'),
  backup: z
    .record(
      z.string().regex(/^[A-Za-z0-9_.-]+$/, 'a backup name has letters, digits, "_", "." and "-"'),
      backup,
    )
    .default({}),
  archive: archive.optional().describe('left out: no WAL is stored'),
  reingest: z
    .record(z.string().regex(/^[A-Za-z0-9_.-]+$/, 'this is no name of a [reingest.NAME]'), reingest)
    .default({})
    .describe('tables that are filled again from files'),
  upgrade: upgrade.prefault({}).describe('how the cluster goes to another major'),
  schedule: scheduleDefaults.prefault({}).describe('what holds for every job that does not say otherwise'),
  notify: z
    .record(z.string().regex(/^[A-Za-z0-9_.-]+$/, 'this is no name of a [notify.NAME]'), notify)
    .default({}),
})

/** Tables of the host file whose script does not exist yet. */
export const NOT_YET: Readonly<Record<string, string>> = {
  drill: 'drill.ts',
  maintenance: 'maintain.ts',
  inspect: 'inspect.ts',
}

/** A host file that was checked: every field is present, every default filled in. */
export type Host = z.output<typeof hostSchema>
export type Postgres = Host['postgres']
export type HbaRule = z.output<typeof hbaRule>
export type RoleSpec = z.output<typeof role>
export type DatabaseSpec = z.output<typeof database>
export type GrantSpec = z.output<typeof grant>
/** A setting's value: a list keeps its elements, since each is quoted by itself. */
export type SettingValue = string | readonly string[]
export type { ArchiveSpec, BackupSpec, StoreSpec } from './backup-schema.ts'
export type { AddressSpec } from './schedule-schema.ts'
export { store as storeSchema } from './backup-schema.ts'
