import { normalize } from 'node:path'
import { ident, literal } from '../../cluster/sql.ts'
import type { Host } from '../../host/schema.ts'
import type { Change, Step } from '../change.ts'
import type { Context, Kind, Observe } from '../kind.ts'
import {
  changeMounts,
  dropInPath,
  dropMounts,
  type Mounts,
  mountsThere,
  mountsWanted,
  requires,
} from './tablespace-mounts.ts'
import { tablespaceFindings } from './tablespace-findings.ts'
import { lookAtPlace, type Place } from './tablespace-place.ts'

/** A tablespace; what is there may be the place of one only. */
export interface Tablespace {
  readonly type: 'tablespace'
  readonly isCreated: boolean
  readonly location: string
  readonly owner: string
  /** By name, in that order: numbers as they are compared. */
  readonly options: readonly (readonly [name: string, value: string])[]
  /** Whether a file system of its own must be mounted there. */
  readonly mount: boolean
  /** Of what is there: left out for a remote cluster. */
  readonly place?: Place
}

/**
 * Tablespaces, with their folders and owners and options. One is never moved and never dropped. The
 * drop-in goes by its path, which is longer than any name.
 */
export const tablespace: Kind<Tablespace | Mounts> = {
  name: 'tablespace',

  wanted(host) {
    const tablespaces = wantedTablespaces(host)
    const wanted = new Map<string, Tablespace | Mounts>(tablespaces)
    const locations = tablespaces.filter(([, { mount }]) => mount).map(([, { location }]) => location)
    const mounts = mountsWanted(host, locations)
    return mounts === undefined ? wanted : wanted.set(dropInPath(host), mounts)
  },

  async actual(observe) {
    const actual = new Map<string, Tablespace | Mounts>(await catalogTablespaces(observe))
    const dataDir = observe.facts.dataDir
    for (const [name, wanted] of dataDir === '' ? [] : wantedTablespaces(observe.host)) {
      const found = (actual.get(name) as Tablespace | undefined) ?? {
        ...wanted,
        isCreated: false,
        options: [],
      }
      actual.set(name, { ...found, place: await lookAtPlace(wanted.location, dataDir) })
    }
    const mounts = await mountsThere(observe.host)
    return mounts === undefined ? actual : actual.set(dropInPath(observe.host), mounts)
  },

  change(name, wanted, actual, context) {
    if (wanted.type === 'mounts') return changeMounts(name, wanted, actual as Mounts | undefined)
    const found = actual as Tablespace | undefined
    return found?.isCreated ? alter(name, wanted, found) : create(name, wanted, context)
  },

  drop(name, actual) {
    return actual.type === 'mounts' ? dropMounts(name, actual) : undefined
  },

  findings(name, wanted, actual, context) {
    if (wanted.type === 'mounts') return []
    return tablespaceFindings(name, wanted, actual as Tablespace | undefined, context)
  },

  exported(actual, { host }) {
    const mounts = actual.get(dropInPath(host))
    const entries = [...actual]
      .filter((entry): entry is [string, Tablespace] => entry[1].type === 'tablespace' && entry[1].isCreated)
      .map(([name, { location, owner, options }]) => [
        name,
        {
          location,
          ...(owner !== host.postgres.superuser && { owner }),
          ...(options.length > 0 && { options: Object.fromEntries(options) }),
          ...(mounts?.type === 'mounts' && requires(mounts, location) && { mount: true }),
        },
      ])
    return entries.length === 0 ? {} : { tablespaces: Object.fromEntries(entries) }
  },
}

function wantedTablespaces({ tablespaces, postgres }: Host): [string, Tablespace][] {
  return Object.entries(tablespaces).map(([name, { location, owner, options, mount }]) => [
    name,
    {
      type: 'tablespace',
      isCreated: true,
      location: plainPath(location),
      owner: owner ?? postgres.superuser,
      options: Object.entries(options)
        .map(([option, value]) => [option, plainNumber(value)] as const)
        .sort(byName),
      mount,
    },
  ])
}

// As the server keeps it: without a slash at its end, or two in a row.
function plainPath(path: string): string {
  const plain = normalize(path).replace(/\/+$/, '')
  return plain === '' ? '/' : plain
}

function plainNumber(text: string): string {
  const number = Number(text)
  return text.trim() === '' || Number.isNaN(number) ? text : String(number)
}

function byName(a: readonly [string, string], b: readonly [string, string]): number {
  return a[0] < b[0] ? -1 : 1
}

async function catalogTablespaces(observe: Observe): Promise<[string, Tablespace][]> {
  const rows = await observe.query<CatalogRow>(
    'postgres',
    `select spcname::text as name, pg_tablespace_location(oid) as location,
            pg_get_userbyid(spcowner)::text as owner, spcoptions as options
       from pg_tablespace where spcname not in ('pg_default', 'pg_global') order by 1`,
  )
  return rows.map(({ name, location, owner, options }) => [
    name,
    {
      type: 'tablespace',
      isCreated: true,
      location,
      owner,
      options: (options ?? []).map(splitOption).sort(byName),
      mount: false,
    },
  ])
}

interface CatalogRow {
  readonly name: string
  readonly location: string
  readonly owner: string
  readonly options: readonly string[] | null
}

function splitOption(text: string): readonly [string, string] {
  const cut = text.indexOf('=')
  return [text.slice(0, cut), plainNumber(text.slice(cut + 1))]
}

function create(name: string, wanted: Tablespace, { host, facts }: Context): Change {
  const { location, owner, options } = wanted
  const isOwned = owner !== host.postgres.superuser
  const settings = options.map(([option, value]) => `${option} = ${literal(value)}`)
  const text = [
    `create tablespace ${ident(name)} owner ${ident(owner)} location ${literal(location)}`,
    ...(settings.length > 0 ? [`with (${settings.join(', ')})`] : []),
  ].join(' ')
  const line = [
    location,
    ...(isOwned ? [`owner ${owner}`] : []),
    ...options.map(([option, value]) => `${option} ${value}`),
  ].join(', ')
  // The server takes the folder for itself, but it must be there, be its own and be nobody else's.
  const folder: Step[] =
    facts.dataDir === '' ? [] : [{ run: 'folder', path: location, mode: 0o700, owner: facts.osUser }]
  return change(name, 'create', line, [...folder, sql(text, false)])
}

/** Only what differs; a move is none of it. */
function alter(name: string, wanted: Tablespace, actual: Tablespace): Change | undefined {
  if (wanted.location !== actual.location) return undefined
  const [before, after] = [new Map(actual.options), new Map(wanted.options)]
  const set = wanted.options.filter(([option, value]) => before.get(option) !== value)
  const reset = actual.options.filter(([option]) => !after.has(option))
  const table = `alter tablespace ${ident(name)}`
  const lines = [
    ...(wanted.owner === actual.owner ? [] : [`owner ${actual.owner} -> ${wanted.owner}`]),
    ...set.map(([option, value]) => `${option} ${before.get(option) ?? 'default'} -> ${value}`),
    ...reset.map(([option, value]) => `${option} ${value} -> default`),
  ]
  if (lines.length === 0) return undefined
  const settings = set.map(([option, value]) => `${option} = ${literal(value)}`).join(', ')
  return change(name, 'alter', lines.join(', '), [
    ...(wanted.owner === actual.owner ? [] : [sql(`${table} owner to ${ident(wanted.owner)}`, true)]),
    ...(set.length === 0 ? [] : [sql(`${table} set (${settings})`, true)]),
    ...(reset.length === 0
      ? []
      : [sql(`${table} reset (${reset.map(([option]) => option).join(', ')})`, true)]),
  ])
}

function sql(text: string, transaction: boolean): Step {
  return { run: 'sql', database: 'postgres', text, transaction }
}

function change(name: string, action: Change['action'], line: string, steps: readonly Step[]): Change {
  return { kind: 'tablespace', name, action, line, hazards: [], steps }
}
