import { expect, test } from 'vitest'
import { createStatement, propertyStatements } from '../../scripts/backup/properties.ts'
import type { DatabaseProperties } from '../../scripts/backup/survey.ts'
import { sampleDatabase } from './sample.ts'

const plain: DatabaseProperties = {
  connectionLimit: -1,
  isTemplate: false,
  comment: null,
  hasPublicSchema: true,
  privileges: null,
  settings: [],
}

test.each([
  [13, {}, ''],
  [15, {}, ' locale_provider libc'],
  [15, { localeProvider: 'icu', locale: 'de' }, ` locale_provider icu icu_locale 'de'`],
  [
    16,
    { localeProvider: 'icu', locale: 'de', icuRules: '&a < b' },
    ` locale_provider icu icu_locale 'de' icu_rules '&a < b'`,
  ],
  [17, { localeProvider: 'builtin', locale: 'C.UTF-8' }, ` locale_provider builtin builtin_locale 'C.UTF-8'`],
])('create database: on PostgreSQL %i, %j: the clauses that it knows', (major, change, clause) => {
  expect(createStatement('x', sampleDatabase(change), major)).toBe(
    `create database "x" with template template0 owner "app" encoding 'UTF8' lc_collate 'C.UTF-8' lc_ctype 'C.UTF-8'${clause} tablespace "pg_default"`,
  )
})

test.each(['a"b', 'Ünï cødé', 'with space', 'select', `'; drop table x; --`, 'x'.repeat(63)])(
  'create database: name and owner %j: quoted',
  (name) => {
    const quoted = `"${name.replaceAll('"', '""')}"`
    const statement = createStatement(name, sampleDatabase({ owner: name, tablespace: name }), 15)
    expect(statement).toMatch(
      new RegExp(
        `^create database ${RegExp.escape(quoted)} with template template0 owner ${RegExp.escape(quoted)} `,
      ),
    )
    expect(statement.endsWith(` tablespace ${quoted}`)).toBe(true)
  },
)

test('properties of a database as it is made: no statement', () => {
  expect(propertyStatements('x', 'app', plain)).toEqual([])
})

test('privileges: those of a new database go first; grants of others come last, as the role that made them', () => {
  const privileges = [
    { grantee: 'c', grantor: 'b', privilege: 'CONNECT', grantable: false },
    { grantee: null, grantor: 'app', privilege: 'TEMPORARY', grantable: false },
    { grantee: 'b', grantor: 'app', privilege: 'CONNECT', grantable: true },
  ]
  expect(propertyStatements('x', 'app', { ...plain, privileges })).toEqual([
    'revoke all on database "x" from public',
    'revoke all on database "x" from "app"',
    'grant TEMPORARY on database "x" to public',
    'grant CONNECT on database "x" to "b" with grant option',
    'set local role "b"',
    'grant CONNECT on database "x" to "c"',
    'reset role',
  ])
})

test('no privileges at all: not even those of a new database', () => {
  expect(propertyStatements('x', 'app', { ...plain, privileges: [] })).toEqual([
    'revoke all on database "x" from public',
    'revoke all on database "x" from "app"',
  ])
})

test('settings: values with = and quotes; a list is left to the server, since as one text it would be one schema', () => {
  const settings = [
    { role: null, entries: [`app.token=a=b'c`, 'search_path="A b", public'] },
    { role: 'r"x', entries: ['work_mem=64MB'] },
  ]
  expect(propertyStatements('x', 'app', { ...plain, settings })).toEqual([
    `alter database "x" set "app"."token" to 'a=b''c'`,
    `select set_config('search_path', '"A b", public', true)`,
    `alter database "x" set "search_path" from current`,
    `alter role "r""x" in database "x" set "work_mem" to '64MB'`,
  ])
})

test('comment, connection limit, template: set last', () => {
  expect(
    propertyStatements('x', 'app', { ...plain, comment: `it's`, connectionLimit: 0, isTemplate: true }),
  ).toEqual([
    `comment on database "x" is 'it''s'`,
    'alter database "x" connection limit 0',
    'alter database "x" is_template true',
  ])
})
