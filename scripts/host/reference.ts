import { z } from 'zod'
import { hostSchema } from './schema.ts'

/** The JSON Schema of the host file, for editors: the text of conf/host.schema.json. Pure. */
export function hostJsonSchema(): string {
  const schema = z.toJSONSchema(hostSchema, { io: 'input', unrepresentable: 'any', target: 'draft-7' })
  return `${JSON.stringify({ ...schema, title: 'Howdah host file' }, undefined, 2)}\n`
}

interface JsonSchema {
  readonly type?: string
  readonly description?: string
  readonly default?: unknown
  readonly const?: unknown
  readonly enum?: readonly unknown[]
  readonly anyOf?: readonly JsonSchema[]
  readonly oneOf?: readonly JsonSchema[]
  readonly properties?: Readonly<Record<string, JsonSchema>>
  readonly additionalProperties?: JsonSchema | boolean
  readonly items?: JsonSchema
  readonly required?: readonly string[]
}

/**
 * Every key of the host file with its meaning and default, as TOML: the text of conf/reference.toml.
 * Lines that begin with `# key =` show a default or an example; the file is a valid host file. Pure.
 */
export function referenceToml(): string {
  const schema = JSON.parse(hostJsonSchema()) as JsonSchema
  const lines = [
    '#:schema ./host.schema.json',
    '# Every key of the host file. Lines that are commented out show a default, or an example where',
    '# there is none. Times and sizes are texts: "30d", "64MB".',
    ...table('', schema),
  ]
  return `${lines.join('\n')}\n`
}

function table(path: string, schema: JsonSchema): string[] {
  const entries = Object.entries(schema.properties ?? {})
  const leaves = entries.filter(([, value]) => !isTable(value))
  const tables = entries.filter(([, value]) => isTable(value))
  return [
    ...leaves.flatMap(([key, value]) =>
      leaf(
        path,
        key,
        value,
        schema.required?.includes(key) === true || `${path}.${key}` === 'postgres.major',
      ),
    ),
    ...tables.flatMap(([key, value]) => {
      // A table whose mere presence means something is not switched on by a reference.
      const hasNames = typeof value.additionalProperties === 'object' && isTable(value.additionalProperties)
      const isRequired = schema.required?.includes(key) === true || value.default !== undefined
      const isOptional = !isRequired && !hasNames
      const lines = subTable(path === '' ? key : `${path}.${key}`, value)
      return isOptional ? switchedOff(lines) : lines
    }),
  ]
}

function subTable(path: string, schema: JsonSchema): string[] {
  const about = schema.description === undefined ? [] : [`# ${schema.description}`]
  if (schema.type === 'array')
    return ['', ...about, ...commented(`[[${path}]]`, table(path, { ...schema.items!, required: [] }))]
  const element = schema.additionalProperties
  if (typeof element !== 'object') return ['', ...about, `[${path}]`, ...table(path, schema)]
  const variants = variantsOf(element)
  if (variants.length > 0) {
    return variants.flatMap((variant, index) => {
      const lines = subTable(`${path}.${VARIANT_NAMES[constOf(variant)] ?? 'NAME'}`, variant)
      return index === 0 ? lines : switchedOff(lines)
    })
  }
  if (isTable(element)) {
    const lines = subTable(`${path}.${NAMES[path] ?? 'NAME'}`, element)
    return path === 'notify' ? switchedOff(lines) : lines // it needs one of its keys, whichever
  }
  return [
    '',
    ...about,
    `[${path}]`,
    ...(FREE[path.replace(/\..*\./, '.*.')] ?? []).map((line) => `# ${line}`),
  ]
}

/** A table that would not be valid as it stands: all of it is commented out. */
function commented(header: string, lines: readonly string[]): string[] {
  return switchedOff([header, ...lines])
}

function switchedOff(lines: readonly string[]): string[] {
  return lines.map((line) => (line === '' || line.startsWith('#') ? line : `# ${line}`))
}

/** The shapes that an element may have, told apart by their `type`. */
function variantsOf(schema: JsonSchema): readonly JsonSchema[] {
  return (schema.oneOf ?? schema.anyOf ?? []).filter((variant) => variant.properties?.['type'] !== undefined)
}

function constOf(variant: JsonSchema): string {
  return String(variant.properties!['type']!.const)
}

function leaf(path: string, key: string, schema: JsonSchema, required: boolean): string[] {
  const fullPath = path === '' ? key : `${path}.${key}`
  const example =
    EXAMPLES[
      fullPath.replaceAll(/\.(NAME|xtelem|nightly|local|s3|data_array|public|mail|telem)(?=\.)/g, '.*')
    ]
  const value = example ?? JSON.stringify(schema.default ?? schema.const ?? '')
  const choices = schema.enum === undefined ? undefined : schema.enum.map(String).join(' | ')
  const about = [choices, schema.description].filter(Boolean).join('; ')
  const line = `${required ? '' : '# '}${key} = ${value}`
  return [about === '' ? line : `${line.padEnd(36)} # ${about}`]
}

function isTable(schema: JsonSchema): boolean {
  if (schema.type === 'array') return schema.items?.type === 'object'
  return schema.type === 'object'
}

// Names that the reference gives to the variants of a table, by their type.
const VARIANT_NAMES: Readonly<Record<string, string>> = { dir: 'local', s3: 's3' }

// Names that the reference gives to the tables that are keyed by name.
const NAMES: Readonly<Record<string, string>> = {
  tablespaces: 'data_array',
  roles: 'xtelem',
  databases: 'xtelem',
  'databases.xtelem.schemas': 'public',
  backup: 'nightly',
  notify: 'mail',
  reingest: 'telem',
}

/** Lines for tables whose keys are free. */
const FREE: Readonly<Record<string, readonly string[]>> = {
  settings: ['log_min_duration_statement = "1s"', 'shared_preload_libraries = ["pg_stat_statements"]'],
  'roles.*.settings': ['search_path = ["app", "public"]'],
  'databases.*.settings': ['timezone = "UTC"'],
  'tablespaces.*.options': ['random_page_cost = 1.1'],
  'reingest.*.decoders': ['".bintel" = ["/opt/MagAOX/bin/logdump", "--ext=.bintel", "-J", "-F"]'],
}

// What a key shows where its default is nothing.
const EXAMPLES: Readonly<Record<string, string>> = {
  'host.name': '"db1"',
  'postgres.major': '17',
  'postgres.packages': '["postgresql-17"]',
  'postgres.data_dir': '"/srv/pg/data"',
  'postgres.bindir': '"/usr/lib/postgresql/17/bin"',
  'postgres.socket_dir': '"/srv/pg/socket"',
  'postgres.url': '"postgres://admin@db.example.org/"',
  'postgres.password': '{ file = "/etc/howdah/secrets/admin" }',
  'postgres.sslmode': '"verify-full"',
  'postgres.ca_file': '"/etc/howdah/ca.pem"',
  'postgres.initdb.locale_provider': '"libc"',
  'postgres.initdb.icu_locale': '"de-AT"',
  'postgres.initdb.wal_segsize': '"16MB"',
  'postgres.tune.memory': '"2GB"',
  'postgres.tune.cpus': '2',
  'hba.rules.type': '"host"',
  'hba.rules.address': '"192.168.0.0/16"',
  'hba.rules.method': '"scram-sha-256"',
  'hba.rules.comment': '"instrument computers"',
  'tablespaces.*.location': '"/data/postgres"',
  'tablespaces.*.owner': '"postgres"',
  'roles.*.reassign_to': '"postgres"',
  'roles.*.valid_until': '"2027-01-01T00:00:00Z"',
  'roles.*.password': '{ file = "/etc/howdah/secrets/xtelem" }',
  'roles.*.member_of': '["readers", { role = "pg_monitor", admin = false }]',
  'roles.*.comment': '"the ingesting application"',
  'databases.*.owner': '"xtelem"',
  'databases.*.encoding': '"UTF8"',
  'databases.*.locale': '"C.UTF-8"',
  'databases.*.template': '"template0"',
  'databases.*.tablespace': '"data_array"',
  'databases.*.extensions': '["pg_trgm", { name = "hstore", version = "latest", schema = "public" }]',
  'databases.*.comment': '"telemetry"',
  'databases.*.migrations.dir': '"sql/xtelem/migrations"',
  'databases.*.migrations.role': '"xtelem"',
  'databases.*.migrations.mirror_table': '"public.__schema_migrations"',
  'databases.*.schemas.*.owner': '"xtelem"',
  'databases.*.grants.to': '["xsup"]',
  'databases.*.grants.on': '"tables"',
  'databases.*.grants.objects': '["telem"]',
  'databases.*.grants.privileges': '["SELECT"]',
  'databases.*.grants.creators': '["xtelem"]',
  'store.*.path': '"/var/backups/howdah"',
  'store.*.bucket': '"db-backups"',
  'store.*.prefix': '"prod"',
  'store.*.endpoint': '"https://s3.example.org"',
  'store.*.path_style': 'true',
  'store.*.access_key': '{ credential = "s3_key" }',
  'store.*.secret_key': '{ credential = "s3_secret" }',
  'store.*.session_token': '{ env = "AWS_SESSION_TOKEN" }',
  'store.*.ca_file': '"/etc/howdah/ca.pem"',
  'encryption.recipients': '["age1qqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqq"]',
  'encryption.identity': '{ credential = "age_identity" }',
  'backup.*.rate_limit': '"50MB"',
  'backup.*.pitr': '"7d"',
  'backup.*.keep.last': '3',
  'backup.*.keep.hourly': '24',
  'backup.*.keep.daily': '7',
  'backup.*.keep.weekly': '4',
  'backup.*.keep.monthly': '12',
  'backup.*.keep.yearly': '3',
  'backup.*.keep.within': '"2d"',
  'archive.store': '"local"',
  'archive.user': '"postgres"',
  'archive.on_failure': '["mail"]',
  'backup.*.schedule': '"0 2 * * *"',
  'backup.*.verify_schedule': '"0 6 * * 0"',
  'backup.*.timezone': '"Europe/Vienna"',
  'backup.*.randomized_delay': '"5m"',
  'backup.*.persistent': 'true',
  'backup.*.user': '"postgres"',
  'backup.*.runtime_limit': '"6h"',
  'backup.*.lock_wait': '"1h"',
  'backup.*.grace': '"2h"',
  'backup.*.on_failure': '["mail"]',
  'backup.*.ping': '{ credential = "ping_nightly" }',
  'schedule.ping': '{ credential = "ping_check" }',
  'schedule.user': '"postgres"',
  'schedule.metrics_dir': '"/var/lib/prometheus/node-exporter"',
  'notify.*.command': '["/usr/sbin/sendmail", "-t"]',
  'notify.*.webhook': '{ file = "/etc/howdah/secrets/hook" }',
  'notify.*.authorization': '{ credential = "hook_token" }',
  'reingest.*.database': '"xtelem"',
  'reingest.*.role': '"xtelem"',
  'reingest.*.hostname': '"aoc"',
  'reingest.*.schedule': '"*/15 * * * *"',
  'reingest.*.randomized_delay': '"1m"',
  'reingest.*.persistent': 'true',
  'reingest.*.user': '"postgres"',
  'reingest.*.runtime_limit': '"6h"',
  'reingest.*.grace': '"1h"',
  'reingest.*.on_failure': '["mail"]',
  'reingest.*.ping': '{ credential = "ping_telem" }',
  'backup.*.kind': '"base"',
  'backup.*.databases': '["xtelem"]',
  'backup.*.store': '"local"',
}
