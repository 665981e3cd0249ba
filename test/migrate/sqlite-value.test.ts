import { describe, expect, test } from 'vitest'
import type { SqliteValue } from '../../scripts/migrate/sqlite.ts'
import { convert, isKnownType } from '../../scripts/migrate/sqlite-value.ts'

const PLACE = { table: 't', column: 'c', key: 'k1, k2' }
const text = (value: string | Uint8Array): SqliteValue => ({ type: 'text', value: Buffer.from(value) })
const integer = (value: bigint): SqliteValue => ({ type: 'integer', value })

describe('a value of SQLite', () => {
  test.each<[string, SqliteValue, string | null]>([
    ['text', text('ü\n"\\'), 'ü\n"\\'],
    ['text', text(''), ''],
    ['character varying', text('\uFEFFx'), '\uFEFFx'],
    ['text', { type: 'null', value: null }, null],
    ['boolean', integer(0n), 'f'],
    ['boolean', integer(1n), 't'],
    ['boolean', { type: 'null', value: null }, null],
    ['integer', integer(-2_147_483_648n), '-2147483648'],
    ['bigint', integer(9_223_372_036_854_775_807n), '9223372036854775807'],
    ['smallint', integer(32_767n), '32767'],
  ])('%s of %o: becomes %s', (type, value, result) => {
    expect(convert(value, type, PLACE)).toBe(result)
  })

  test.each<[string, SqliteValue, string]>([
    ['text', integer(1n), 'it is of type integer'],
    ['text', { type: 'blob', value: Buffer.from('x') }, 'it is of type blob'],
    ['text', text(Buffer.from([0x61, 0xff])), 'it is not valid UTF-8'],
    ['text', text(Buffer.from([0xed, 0xa0, 0x80])), 'it is not valid UTF-8'],
    ['text', text('a\0b'), 'it holds a NUL character'],
    ['boolean', integer(2n), 'it is 2, neither 0 nor 1'],
    ['boolean', text('true'), 'it is of type text'],
    ['integer', integer(2_147_483_648n), '2147483648 does not fit'],
    ['smallint', integer(-32_769n), '-32769 does not fit'],
    ['integer', { type: 'real', value: 1 }, 'it is of type real'],
    ['bigint', text('7'), 'it is of type text'],
  ])('%s of %o: is refused', (type, value, why) => {
    expect(() => convert(value, type, PLACE)).toThrow(`t.c of row k1, k2 cannot be ${type}: ${why}`)
  })

  test('types that it can become', () => {
    expect([isKnownType('text'), isKnownType('jsonb'), isKnownType('constructor')]).toEqual([
      true,
      false,
      false,
    ])
  })
})
