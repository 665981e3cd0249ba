import { constants, gzipSync, zstdCompressSync } from 'node:zlib'
import { bintel } from './bintel.ts'

/** A file as some instrument leaves it, and what is to come of it, in words of its own. */
export interface Oddity {
  /** What it is; `live`: it is being written to. */
  readonly title: string
  readonly ending: string
  readonly content: Buffer
  readonly isLive?: true
  /** It stands in a folder `old`, and has the name of the file with this number. */
  readonly copyOf?: number
  readonly state: 'whole' | 'open' | 'partial' | 'same' | 'failed'
  readonly reason?: string
  /** Time of day on 2026-03-14 or a whole time, in UTC; ec; msg as jsonb prints it. */
  readonly rows?: readonly (readonly [time: string, ec: string, msg: string])[]
  readonly known?: number
  readonly conflicts?: number
  readonly rejects?: readonly (readonly [line: number, reason: string, content: string])[]
}

/** A line with a time of day on 2026-03-14. */
const at = (time: string, msg: string, ec = 'telem_cooler') =>
  `{"ts": "2026-03-14T${time}", "prio": "TELM", "ec": "${ec}", "msg": ${msg}}\n`

const seconds = Date.UTC(2026, 2, 14, 2, 7, 40) / 1000
const cooler = { code: 20_850, seconds, nanoseconds: 195_911_902, payload: '{"fanLevel": 5}' }
/** As a program that still runs, or died, leaves it: all that was flushed is there, and the end is not. */
const withoutEnd = (text: string) => gzipSync(text, { finishFlush: constants.Z_SYNC_FLUSH })
const torn = '{"ts": "2026-03-14T02:15:47.5'
const all = Buffer.from(Array.from({ length: 1024 }, (_, index) => index % 256))

/** Twenty files of one instrument; the one with number N has records of 02:N. */
export const ODDITIES: readonly Oddity[] = [
  {
    title: 'lines with nine digits, which are cut and never rounded',
    ending: '.ndjson',
    content: Buffer.from(
      at(
        '02:00:40.195911902',
        '{"email": "obs@example.org","obsName": "HD 12345 lab","observing": true}',
        'o',
      ) + at('02:00:41.999999999', '{"observing": false}', 'o'),
    ),
    state: 'whole',
    rows: [
      ['02:00:40.195911', 'o', '{"email": "obs@example.org", "obsName": "HD 12345 lab", "observing": true}'],
      ['02:00:41.999999', 'o', '{"observing": false}'],
    ],
  },
  {
    title: 'closed and packed',
    ending: '.ndjson.gz',
    content: gzipSync(at('02:01:40.000000123', '{"loads": [0.12,0.4,0.03,1.0]}', 'telem_coreloads')),
    state: 'whole',
    rows: [['02:01:40.000000', 'telem_coreloads', '{"loads": [0.12, 0.4, 0.03, 1.0]}']],
  },
  {
    title: 'packed while it is written',
    ending: '.ndjson.gz',
    content: withoutEnd(at('02:02:40.5', '1.10') + at('02:02:41.5', '2')),
    isLive: true,
    state: 'open',
    reason: 'the packed stream has no end',
    rows: [
      ['02:02:40.500000', 'telem_cooler', '1.10'],
      ['02:02:41.500000', 'telem_cooler', '2'],
    ],
  },
  {
    title: 'packed by a program that died within a line',
    ending: '.ndjson.gz',
    content: withoutEnd(at('02:03:40.5', '1') + torn),
    state: 'partial',
    reason: 'the packed stream has no end; the last line is cut off',
    rows: [['02:03:40.500000', 'telem_cooler', '1']],
    rejects: [[2, 'the last line is cut off', torn]],
  },
  {
    title: 'packed by zstd, two frames',
    ending: '.ndjson.zst',
    content: Buffer.concat([
      zstdCompressSync(at('02:04:40.5', '"ä \\u20ac \\t 😀"')),
      zstdCompressSync(at('02:04:41.5', '12345678901234567890.10')),
    ]),
    state: 'whole',
    rows: [
      ['02:04:40.500000', 'telem_cooler', '"ä € \\t 😀"'],
      ['02:04:41.500000', 'telem_cooler', '12345678901234567890.10'],
    ],
  },
  {
    title: 'a table: quotes, a line break within them, columns in an order of their own, CRLF',
    ending: '.csv',
    content: Buffer.from(
      'more,MSG,ec,ts\r\n,"{""a"":\r\n ""x, y""}",telem_a,2026-03-14T02:05:40.195911902\r\nz,null,telem_b,2026-03-14 02:05:41\r\n',
    ),
    state: 'whole',
    rows: [
      ['02:05:40.195911', 'telem_a', '{"a": "x, y"}'],
      ['02:05:41.000000', 'telem_b', 'null'],
    ],
  },
  {
    title: 'a packed table with bad records',
    ending: '.csv.gz',
    content: gzipSync(
      'ts,ec,msg\n2026-03-14T02:06:40.5,e,1\n2026-03-14T02:06:41.5,e\n2026-03-14T02:06:42.5,e,nan\n2026-03-14T02:06:43.5,e,"""x"""\n',
    ),
    state: 'partial',
    reason: '2 lines are no rows',
    rows: [
      ['02:06:40.500000', 'e', '1'],
      ['02:06:43.500000', 'e', '"x"'],
    ],
    rejects: [
      [3, '2 fields, the header has 3', '2026-03-14T02:06:41.5,e'],
      [4, '"msg" is no JSON', '2026-03-14T02:06:42.5,e,nan'],
    ],
  },
  {
    title: 'records with lengths of one, three and nine bytes',
    ending: '.bintel',
    content: Buffer.concat([
      bintel(cooler),
      bintel({ ...cooler, nanoseconds: 999_999_999, payload: `"${'x'.repeat(298)}"` }),
      bintel({ code: 20_000, seconds: seconds + 1, nanoseconds: 789, payload: `"${'y'.repeat(69_998)}"` }),
      bintel({ ...cooler, seconds: seconds + 2, payload: '{"fanLevel": nan}' }),
    ]),
    state: 'whole',
    rows: [
      ['02:07:40.195911', 'telem_cooler', '{"fanLevel": 5}'],
      ['02:07:40.999999', 'telem_cooler', `"${'x'.repeat(298)}"`],
      ['02:07:41.000000', 'telem_telpos', `"${'y'.repeat(69_998)}"`],
      ['02:07:42.195911', 'telem_cooler', '{"fanLevel": null}'],
    ],
  },
  {
    title: 'a record that is cut off: its decoder says so',
    ending: '.bintel',
    content: Buffer.concat([bintel(cooler), bintel(cooler).subarray(0, 20)]),
    state: 'failed',
    reason: 'DECODER ended with exit code 1: logdump: record at byte 27: 15 bytes are promised',
  },
  {
    title: 'times without a fraction, or with what is left of one of 0',
    ending: '.ndjson',
    content: Buffer.from(
      at('02:09:59000', '"broken: Python drops .000000"') +
        at('02:09:58', '1') +
        at('02:09:57.123456000', '2') +
        at('02:09:56.5Z', '3') +
        at('04:09:55.5+02:00', '4'),
    ),
    state: 'whole',
    rows: [
      ['02:09:55.500000', 'telem_cooler', '4'],
      ['02:09:56.500000', 'telem_cooler', '3'],
      ['02:09:57.123456', 'telem_cooler', '2'],
      ['02:09:58.000000', 'telem_cooler', '1'],
      ['02:09:59.000000', 'telem_cooler', '"broken: Python drops .000000"'],
    ],
  },
  {
    title: 'words that are no JSON',
    ending: '.ndjson.gz',
    content: gzipSync(
      at(
        '02:10:45.000000789',
        '{"fwhm": nan,"bad": -nan,"m": inf,"n": -inf,"nan": "nan, \\"inf\\""}',
        'telem_telsee',
      ) + at('02:10:46.5', '[NaN, Infinity, -Infinity, 1e-06]'),
    ),
    state: 'whole',
    rows: [
      [
        '02:10:45.000000',
        'telem_telsee',
        '{"m": null, "n": null, "bad": null, "nan": "nan, \\"inf\\"", "fwhm": null}',
      ],
      ['02:10:46.500000', 'telem_cooler', '[null, null, null, 0.000001]'],
    ],
  },
  {
    title: 'a last line that is cut off, long ago',
    ending: '.ndjson',
    content: Buffer.from(at('02:11:40.5', '1') + torn),
    state: 'partial',
    reason: 'the last line is cut off',
    rows: [['02:11:40.500000', 'telem_cooler', '1']],
    rejects: [[2, 'the last line is cut off', torn]],
  },
  {
    title: 'nothing but binary garbage',
    ending: '.ndjson',
    content: all,
    state: 'failed',
    reason: 'none of its 4 lines is a row: no JSON',
  },
  {
    title: 'good lines among bad ones',
    ending: '.ndjson.gz',
    content: gzipSync(
      Buffer.concat([
        Buffer.from(at('02:13:40.5', '1')),
        Buffer.from('garbage\n\n[]\n'),
        Buffer.from(at('02:13:61.5', '2')),
        Buffer.from('{"ts": "2026-03-14T02:13:41", "msg": {}}\n'),
        Buffer.from(at('02:13:42.5', '"\\u0000"')),
        Buffer.from([0x7b, 0xff, 0x7d, 10]),
        Buffer.from(at('02:13:43.5', '3', 'telem_longer_than_twenty')),
        Buffer.from(at('02:13:44.5', '4')),
      ]),
    ),
    state: 'partial',
    reason: '7 lines are no rows',
    rows: [
      ['02:13:40.500000', 'telem_cooler', '1'],
      ['02:13:44.500000', 'telem_cooler', '4'],
    ],
    rejects: [
      [2, 'no JSON', 'garbage'],
      [4, 'no JSON object', '[]'],
      [5, '"ts" is no time: 2026-03-14T02:13:61.5', at('02:13:61.5', '2').trimEnd()],
      [6, 'without "ec"', '{"ts": "2026-03-14T02:13:41", "msg": {}}'],
      [
        7,
        'a text holds a NUL or half a character, which the server cannot store',
        at('02:13:42.5', '"\\u0000"').trimEnd(),
      ],
      [8, 'not UTF-8', '{ÿ}'],
      [9, '"ec" has more than 20 characters', at('02:13:43.5', '3', 'telem_longer_than_twenty').trimEnd()],
    ],
  },
  {
    title: 'two records in one microsecond, and one that is there twice',
    ending: '.ndjson',
    content: Buffer.from(
      at('02:14:40.1234561', '1', 'telem_a') +
        at('02:14:40.1234569', '2', 'telem_b') +
        at('02:14:41.5', '3').repeat(2),
    ),
    state: 'whole',
    rows: [
      ['02:14:40.123456', 'telem_a', '1'],
      ['02:14:41.500000', 'telem_cooler', '3'],
    ],
    known: 1,
    conflicts: 1,
  },
  {
    title: 'packed, damaged in its check',
    ending: '.ndjson.gz',
    content: damaged(gzipSync(at('02:15:40.5', '1'))),
    state: 'partial',
    reason: 'what is packed is damaged: incorrect data check',
    rows: [['02:15:40.500000', 'telem_cooler', '1']],
  },
  {
    title: 'a second copy of another one',
    ending: '.ndjson.gz',
    content: gzipSync(at('02:01:40.000000123', '{"loads": [0.12,0.4,0.03,1.0]}', 'telem_coreloads')),
    copyOf: 1,
    state: 'same',
  },
  {
    title: 'records of later days, lines that end in CRLF, blank ones',
    ending: '.ndjson',
    content: Buffer.from(
      `\n${at('23:59:59.9999999', '1').replace('\n', '\r\n')}\r\n \n${at('', '2').replace('2026-03-14T', '2026-03-15T00:00:00.000000001')}`,
    ),
    state: 'whole',
    rows: [
      ['23:59:59.999999', 'telem_cooler', '1'],
      ['2026-03-15T00:00:00.000000', 'telem_cooler', '2'],
    ],
  },
  {
    title: 'keys in any order, more of them than needed, and what Python writes of INDI',
    ending: '.ndjson',
    content: Buffer.from(
      '{"msg":{"x":1.50},"more":[1],"ec":"e","ts":"2026-03-14T02:18:40.5"}\n' +
        at(
          '02:18:46.123456000',
          '{"device": "dbIngestAOC", "timestamp": null, "_elements": {"per_sec": {"_value": 12.5, "max": 1000000000.0, "step": 1e-06}}, "state": "PropertyState.OK"}',
          'telem_indi_set',
        ),
    ),
    state: 'whole',
    rows: [
      ['02:18:40.500000', 'e', '{"x": 1.50}'],
      [
        '02:18:46.123456',
        'telem_indi_set',
        '{"state": "PropertyState.OK", "device": "dbIngestAOC", "_elements": {"per_sec": {"max": 1000000000.0, "step": 0.000001, "_value": 12.5}}, "timestamp": null}',
      ],
    ],
  },
  {
    title: 'a table with the wrong columns',
    ending: '.csv',
    content: Buffer.from('time,ec,msg\n2026-03-14T02:19:40,e,1\n'),
    state: 'failed',
    reason: 'wrong columns: there is no ts',
  },
]

function damaged(packed: Buffer): Buffer {
  packed.writeUInt32LE(0, packed.length - 8)
  return packed
}
