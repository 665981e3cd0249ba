import { describe, expect, test } from 'vitest'
import { csvReader } from '../../scripts/reingest/csv.ts'
import { parseLine } from '../../scripts/reingest/line.ts'
import { parseFileName } from '../../scripts/reingest/name.ts'
import { nothingFound, rowsOf } from '../../scripts/reingest/rows.ts'
import { microseconds } from '../../scripts/reingest/source.ts'
import { stampOf } from '../../scripts/reingest/stamp.ts'

describe('name of a file', () => {
  test.each([
    [
      '/opt/MagAOX/telem/observers_20260314021530123456789.bintel',
      'observers',
      '2026-03-14 02:15:30.123456Z',
      '.bintel',
    ],
    ['labrules_2026-03-13T221007.ndjson.gz', 'labrules', '2026-03-13 22:10:07.000000Z', '.ndjson.gz'],
    ['a_b-c_d_20260314021530123456000.ndjson.gz', 'a_b-c_d', '2026-03-14 02:15:30.123456Z', '.ndjson.gz'],
    ['x_20240229235959.csv', 'x', '2024-02-29 23:59:59.000000Z', '.csv'],
  ])(
    '%s: the device ends at the last underscore, the time at the first dot',
    (path, device, time, ending) => {
      expect(parseFileName(path)).toEqual({ device, time, ending })
    },
  )

  test.each([
    'notes.ndjson',
    '_20260314021530.ndjson',
    'x_20260314021530',
    'x_20260229000000.ndjson',
    'x_20260314240000.ndjson',
    'x_2026031402153.ndjson',
    'x_202603140215301234567890.ndjson',
    'a_20260314021530.d/b.ndjson',
  ])('%s: is none of telemetry', (path) => {
    expect(parseFileName(path)).toBeUndefined()
  })
})

describe('time of a record', () => {
  test.each([
    ['2026-03-14T02:15:40.195911902', 'UTC', '2026-03-14T02:15:40.195911Z'],
    ['2026-03-14T02:15:40.999999999', 'UTC', '2026-03-14T02:15:40.999999Z'],
    ['2026-03-14T02:15:59000', 'UTC', '2026-03-14T02:15:59.000000Z'],
    ['2026-03-14T02:15:59', 'UTC', '2026-03-14T02:15:59.000000Z'],
    ['2026-03-14 02:15:59.5', 'UTC', '2026-03-14T02:15:59.500000Z'],
    ['2026-03-14T02:15:59.5Z', 'Europe/Vienna', '2026-03-14T02:15:59.500000Z'],
    ['2026-03-14T02:15:59.5-07:00', 'UTC', '2026-03-14T02:15:59.500000-07:00'],
    ['2026-03-14T02:15:40.195911000', 'America/Phoenix', '2026-03-14T02:15:40.195911 America/Phoenix'],
  ])('%s in %s: is cut to its microseconds, never rounded', (text, zone, stamp) => {
    expect(stampOf(text, zone)).toBe(stamp)
  })

  test.each([
    '',
    '2026-02-29T00:00:00.000000000',
    '2026-03-14T24:00:00.000000000',
    '2026-03-14T02:60:00.000000000',
    '2026-03-14T02:15:60.000000000',
    '2026-03-14T02:15:4x.195911902',
    '2026-03-14T02:15:40.1959119021',
    '2026-03-14T02:15:40+99',
    "2026-03-14T02:15:40'; drop table telem",
    'infinity',
  ])('%s: is none', (text) => {
    stampOf('2026-03-14T02:15:40.195911902', 'UTC') // what is remembered of a line before must not help it
    expect(stampOf(text, 'UTC')).toBeUndefined()
  })

  test('of a file, before 1970 and after: is cut to its microseconds', () => {
    expect(microseconds(1_773_454_540_195_911_902n)).toBe('2026-03-14T02:15:40.195911Z')
    expect(microseconds(0n)).toBe('1970-01-01T00:00:00.000000Z')
    expect(microseconds(-1_500_000_000n)).toBe('1969-12-31T23:59:58.500000Z')
  })
})

describe('line', () => {
  const ts = '2026-03-14T02:15:45.000000789'
  const read = (line: string) => parseLine(line, 'd', 'UTC')
  const msgOf = (msg: string) => {
    const parsed = read(`{"ts": "${ts}", "prio": "TELM", "ec": "e", "msg": ${msg}}`)
    return typeof parsed === 'string' ? parsed : parsed.msg
  }

  test.each([
    ['{"a": 1.0,"b": 12345678901234567890.10}', '{"a": 1.0,"b": 12345678901234567890.10}'],
    ['{"a": nan,"b": -nan,"c": inf,"d": -inf}', '{"a":null,"b":null,"c":null,"d":null}'],
    ['{"a": NaN, "b": Infinity, "c": -Infinity, "n": 1.10}', '{"a":null,"b":null,"c":null,"n":1.10}'],
    [String.raw`{"nan": "nan, \"inf\"", "v": nan}`, String.raw`{"nan":"nan, \"inf\"","v":null}`],
    ['"a text"', '"a text"'],
    ['null', 'null'],
    [String.raw`"\\u0000 and \ud83d\ude00"`, String.raw`"\\u0000 and \ud83d\ude00"`],
  ])('msg %s: keeps its digits, and what is no number becomes null', (msg, stored) => {
    expect(msgOf(msg)).toBe(stored)
  })

  test.each([
    [String.raw`"\u0000"`, /NUL/],
    [String.raw`"\\\u0000"`, /NUL/],
    [String.raw`"\ud83d"`, /half a character/],
    ['1e99999', /larger/],
    [`${'['.repeat(3000)}${']'.repeat(3000)}`, /levels deep/],
    ['{"a": 1}, "msg": }', /no JSON/],
    ['{', /no JSON/],
  ])('msg %s: is refused before the server would refuse the whole file', (msg, reason) => {
    expect(msgOf(msg)).toMatch(reason)
  })

  test('keys in any order, and more of them: the same row', () => {
    const wanted = { ts: '2026-03-14T02:15:45.000000Z', device: 'd', ec: 'e' }
    expect(read(`{"msg":{"x":1.50},"more":[1],"ec":"e","ts":"${ts}"}`)).toEqual({
      ...wanted,
      msg: '{"x":1.50}',
    })
    // The last one of a name counts, as for the server.
    expect(read(`{"ts": "${ts}", "prio": "x", "ec": "e", "msg": 1, "msg": 2}`)).toEqual({
      ...wanted,
      msg: '2',
    })
  })

  test.each([
    ['[]', 'no JSON object'],
    ['{}', 'without "ts" and "ec" and "msg"'],
    [`{"ts": 5, "ec": "e", "msg": 1}`, '"ts" is no text'],
    [`{"ts": "${ts}", "prio": "x", "ec": "e"}`, 'without "msg"'],
  ])('%s: is refused with why', (line, reason) => {
    expect(read(line)).toBe(reason)
  })
})

test('CSV: quotes, line breaks within them, and a device of its own', () => {
  const reader = csvReader('d', 'UTC', (problem) => {
    throw new Error(problem)
  })
  const lines = [
    'msg,EC,ts,device,more\r',
    '"{""a"":',
    '1}",e,2026-03-14T02:15:45,"x, ""y""",\r',
    '1,e,2026-03-14T02:15:46,z',
  ]
  expect(lines.map((line) => reader.push(line))).toEqual([
    undefined,
    undefined,
    { ts: '2026-03-14T02:15:45.000000Z', device: 'x, "y"', ec: 'e', msg: '{"a":\n1}' },
    '4 fields, the header has 5',
  ])
})

test('blocks cut anywhere, in the midst of a character too: the same rows', async () => {
  const text = ['ä', '\\', '\t€', '😀'].map(
    (word, index) =>
      `{"ts": "2026-03-14T02:15:0${index}.5", "prio": "", "ec": "e", "msg": ${JSON.stringify(word)}}\n`,
  )
  const bytes = Buffer.from(text.join(''))
  const rows = async (size: number) => {
    const blocks = async function* () {
      for (let at = 0; at < bytes.length; at += size) yield bytes.subarray(at, at + size)
    }
    const found = nothingFound()
    const out: Buffer[] = []
    for await (const block of rowsOf(blocks(), { format: 'ndjson', device: 'd', zone: 'UTC' }, found))
      out.push(block)
    return { ...found, text: Buffer.concat(out).toString() }
  }
  const whole = await rows(bytes.length)
  expect(whole).toMatchObject({ lines: 4, rows: 4, rejected: 0, torn: undefined })
  expect(whole.text).toContain('\td\te\t"\\\\t€"\n')
  for (const size of [1, 2, 3, 7, 64]) expect(await rows(size)).toEqual(whole)
})
