import { mkdir, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { parse, stringify, type TomlTable } from 'smol-toml'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { connect } from '../../scripts/cluster/connect.ts'
import { ident, literal, show } from '../../scripts/cluster/sql.ts'
import { readSecret } from '../../scripts/core/secret.ts'
import { allPrivileges, classFacts, type ObjectClass, privilegeNames } from '../../scripts/plan/acl.ts'
import { exportHost } from '../../scripts/plan/export.ts'
import { role } from '../../scripts/plan/kind/role.ts'
import { FOUNDATION, KINDS } from '../../scripts/plan/kinds.ts'
import type { Planned } from '../../scripts/plan/planner.ts'
import { HOSTILE_NAMES } from '../support/exported.ts'
import { bindirs } from '../support/majors.ts'
import { linesOf, startServer, type TestServer } from '../support/server.ts'

// The kinds' own tests run on the installed major and prove each by itself. Here all of them come
// from one host file, on every major whose programs are there.

const NAMES = HOSTILE_NAMES.slice(0, 5)
const CLASSES = ['tables', 'sequences', 'functions', 'types'] as const
const POLICIES = ['default', 'revoke', 'legacy'] as const

describe.each(await bindirs())('PostgreSQL $major', ({ bindir, major }) => {
  let server: TestServer
  let toml: string

  beforeAll(async () => {
    // As 13 has it from the start.
    server = await startServer({ bindir, settings: { password_encryption: 'md5' } })
    await mkdir(join(server.dir, 'secrets'))
    for (const [index, name] of NAMES.entries()) {
      await writeFile(secretFile(index), `Tr0ub4dor ${name} ${index}`, { mode: 0o600 })
    }
    toml = hostFile()
  })
  afterAll(() => server[Symbol.asyncDispose]())

  function secretFile(index: number): string {
    return join(server.dir, 'secrets', String(index))
  }

  /** Every kind, everything of it under a hostile name, and each name beside another one. */
  function hostFile(): string {
    const next = (index: number) => NAMES[index % NAMES.length]!
    return stringify({
      settings: { max_connections: 40, work_mem: '5MB', log_line_prefix: `%m 'a"b' ` },
      hba: {
        rules: [
          { type: 'local', database: NAMES, user: NAMES, method: 'scram-sha-256', comment: 'a"b' },
          { type: 'host', user: NAMES[0]!, address: '192.0.2.0/24', method: 'scram-sha-256' },
        ],
      },
      tablespaces: Object.fromEntries(
        NAMES.map((name, index) => [
          name,
          {
            location: join(server.dir, 'spaces', name),
            owner: next(index + 1),
            options: { random_page_cost: 1.1 },
          },
        ]),
      ),
      roles: rolesWords(),
      databases: Object.fromEntries(
        NAMES.map((name, index) => [
          name,
          {
            owner: next(index + 1),
            tablespace: next(index + 2),
            connection_limit: 10 + index,
            settings: { search_path: [name, 'public'] },
            comment: name,
            extensions: ['hstore', { name: 'citext', schema: `${name.slice(0, 60)}.e` }],
            public: POLICIES[index % POLICIES.length]!,
            schemas: { [name]: { owner: next(index + 3) } },
            grants: grantsWords(name, next(index + 4), index % 2 === 1),
            manage: index % 2 === 1 ? 'exact' : 'add',
          },
        ]),
      ),
    })
  }

  function rolesWords(): object {
    return Object.fromEntries(NAMES.map((name, index) => [name, roleWords(name, index)]))
  }

  function roleWords(name: string, index: number): object {
    const options = major < 16 ? {} : { inherit: index % 2 === 0, set: index > 2 }
    return {
      login: true,
      createdb: index === 1,
      inherit: index !== 2,
      connection_limit: index,
      valid_until: '2040-02-29T12:00:00+02:00',
      password: { file: secretFile(index) },
      settings: { search_path: [name, 'public'], application_name: name },
      comment: name,
      member_of: index === 0 ? [] : [{ role: NAMES[index - 1]!, admin: index === 3, ...options }],
      manage: 'exact',
    }
  }

  function grantsWords(schema: string, to: string, isExact: boolean): object[] {
    return [
      { to, on: 'database', privileges: ['ALL'] },
      { to, on: 'schema', schema, privileges: ['ALL'], grantable: true },
      ...CLASSES.map((on) => ({ to, on, schema, privileges: ['ALL'] })),
      { to: isExact ? 'pg_monitor' : ['pg_monitor', 'public'], on: 'tables', privileges: ['SELECT'] },
    ]
  }

  /** One of everything that can be granted on, in the schema of that name. */
  async function makeObjects(name: string, owner: string | undefined, suffix: string): Promise<void> {
    const path = (kind: string) => `${ident(name)}.${ident(`${name.slice(0, 40)}${kind}${suffix}`)}`
    await server.query(
      name,
      `${owner === undefined ? '' : `set role ${ident(owner)};`}
       create table ${path('t')} (id int generated always as identity, big serial);
       create table ${path('p')} (i int) partition by range (i);
       create view ${path('v')} as select 1 as one;
       create materialized view ${path('m')} as select 1 as one;
       create sequence ${path('s')};
       create type ${path('e')} as enum (${literal(name)});
       create domain ${path('d')} as text;
       create function ${path('f')}(${path('e')}, variadic text[]) returns int language sql as 'select 1';
       create procedure ${path('c')}() language sql as 'select 1';
       create aggregate ${path('a')}(int) (sfunc = int4pl, stype = int)`,
    )
  }

  test('every kind from one host file, under hostile names: applied, then nothing to do', async () => {
    const { changes, findings } = await server.apply(KINDS, toml)
    expect(new Set(changes.map(({ kind }) => kind))).toEqual(
      new Set(KINDS.map(({ name }) => name).filter((name) => !FOUNDATION.has(name))),
    )
    expect(findings).toEqual([])
    checkNothing(await server.plan(KINDS, toml))
  })

  test('objects that come later: have what default privileges give, where a creator made them', async () => {
    for (const [index, name] of NAMES.entries()) {
      await makeObjects(name, NAMES[(index + 3) % NAMES.length], 'own')
    }
    checkNothing(await server.plan(KINDS, toml))
  })

  test("somebody else's objects: are granted on, and by nothing but grants", async () => {
    for (const name of NAMES) await makeObjects(name, undefined, 'not')
    const { changes } = await server.apply(KINDS, toml)
    expect(new Set(changes.map(({ kind, name }) => `${kind} of ${name.replace(/^.*: /, '')}`))).toEqual(
      new Set(CLASSES.map((on) => `grant of ${on}`)),
    )
    checkNothing(await server.plan(KINDS, toml))
  })

  test('the server as a host file: a plan against that is empty, and nothing was left out', async () => {
    await server.query('postgres', 'create database fresh')
    const file = join(server.dir, 'host.toml')
    await writeFile(file, server.header)
    const { settings, hba, tablespaces, roles, databases } = parse(
      await exportHost({ file, overrides: [] }),
    ) as Record<'settings' | 'hba' | 'tablespaces' | 'roles' | 'databases', Record<string, TomlTable>>
    checkNothing(await server.plan(KINDS, stringify({ settings, hba, tablespaces, roles, databases })))
    expect(Object.keys(settings)).toEqual(['log_line_prefix', 'max_connections', 'work_mem'])
    expect(hba['rules']).toHaveLength(2)
    expect(Object.keys(tablespaces).toSorted()).toEqual(NAMES.toSorted())
    expect(Object.keys(roles).toSorted()).toEqual(NAMES.toSorted())
    // Schema public as every new database has it, in whatever way this major makes it.
    expect(Object.keys(databases['fresh']!).toSorted()).toEqual(['encoding', 'locale'])
    // Were a membership, a setting or a privilege missing from the file, it would go now.
    for (const words of [...Object.values(roles), ...Object.values(databases)]) words['manage'] = 'exact'
    const { changes } = await server.plan(KINDS, stringify({ roles, databases }))
    // Only what everybody has from the start, which is no grant that a file would name.
    const fromStart = /: revoke (execute|usage|connect, temporary)( on .*)? from public$/
    expect(linesOf(changes).filter((line) => !fromStart.test(line))).toEqual([])
  })

  test('ALL: is what the server says that an owner has', async () => {
    for (const on of ['database', 'schema', ...CLASSES] satisfies ObjectClass[]) {
      const rows = await server.query<{ name: string }>(
        'postgres',
        `select privilege_type as name from aclexplode(acldefault($1, 10)) where grantee = 10`,
        [classFacts(on).letter],
      )
      expect(privilegeNames(allPrivileges(on, major)).toSorted()).toEqual(
        rows.map(({ name }) => name).toSorted(),
      )
    }
  })

  test(`ALL on tables: ${major < 17 ? 'is without' : 'has'} MAINTAIN`, async () => {
    const [name, grantee] = [NAMES[0]!, NAMES[4]!]
    const rows = await server.query<{ privileges: string[] }>(
      name,
      `select array(select privilege_type from aclexplode(relacl) where grantee = $1::regrole order by 1) as privileges
         from pg_class where relkind in ('r', 'p', 'v', 'm') and relnamespace = $2::regnamespace`,
      [ident(grantee), ident(name)],
    )
    expect(rows).toHaveLength(8)
    for (const { privileges } of rows) {
      expect(privileges).toContain('TRIGGER')
      expect(privileges.includes('MAINTAIN')).toBe(major >= 17)
    }
  })

  test.each(POLICIES)(
    'schema public with policy %s, whose owner and ACL differ by major: settles',
    async (policy) => {
      const words = `[databases.public_${policy}]\npublic = "${policy}"\n[roles.${policy}_owner]\n`
      await server.apply(KINDS, words)
      checkNothing(await server.plan(KINDS, words))
      const owned = `${words}[databases.public_${policy}.schemas.public]\nowner = "${policy}_owner"\n`
      expect(linesOf((await server.apply(KINDS, owned)).changes)).toEqual([
        `~ schema public_${policy}.public: owner ${major < 15 ? 'postgres' : 'pg_database_owner'} -> ${policy}_owner`,
      ])
      checkNothing(await server.plan(KINDS, owned))
    },
  )

  test('passwords: are SCRAM whatever password_encryption says, and let their roles in', async () => {
    const name = NAMES[1]!
    const stored = async () =>
      await server.query<{ verifier: string }>(
        'postgres',
        'select left(rolpassword, 14) as verifier from pg_authid where rolname = any($1)',
        [NAMES],
      )
    expect(await stored()).toEqual(NAMES.map(() => ({ verifier: 'SCRAM-SHA-256$' })))
    // The password itself, stored in the old way as this server may do.
    const secret = await readSecret({ file: secretFile(1) })
    await server.query('postgres', `alter role ${ident(name)} password ${literal(secret.reveal())}`)
    const roles = stringify({ roles: rolesWords() })
    expect(linesOf((await server.apply([role], roles)).changes)).toEqual([
      `~ role ${show(name)}: password stored as SCRAM instead of MD5`,
    ])
    expect(await stored()).toEqual(NAMES.map(() => ({ verifier: 'SCRAM-SHA-256$' })))
    checkNothing(await server.plan([role], roles))
    const { port, socketDir } = server.cluster
    const target = { host: socketDir, port, user: name, database: name, applicationName: 'test', label: 'it' }
    const client = await connect({ ...target, password: secret })
    await client.end()
    await expect(connect(target)).rejects.toThrow('cannot connect')
  })
})

function checkNothing({ changes, findings }: Planned): void {
  expect(linesOf(changes)).toEqual([])
  expect(findings).toEqual([])
}
