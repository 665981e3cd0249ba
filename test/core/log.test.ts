import { expect, test } from 'vitest'
import { maskUrls } from '../../scripts/core/log.ts'
import { runCode } from '../support/code.ts'

test.each([
  ['postgres://bob:hunter2@db/x', 'postgres://bob:***@db/x'],
  [
    'postgresql://bob:hunter2@[::1]:5432/x?sslmode=require',
    'postgresql://bob:***@[::1]:5432/x?sslmode=require',
  ],
  [
    'a password with @ in it: postgres://bob:hun@ter2@db/x',
    'a password with @ in it: postgres://bob:***@db/x',
  ],
  [
    'a password with / in it: postgres://bob:hun/ter2@db/x',
    'a password with / in it: postgres://bob:***@db/x',
  ],
  ['no user: postgres://:hunter2@db/x', 'no user: postgres://:***@db/x'],
  ['two: s3://k:hunter2@a http://u:hunter2@b', 'two: s3://k:***@a http://u:***@b'],
  ['in quotes: "https://u:hunter2@b/c"', 'in quotes: "https://u:***@b/c"'],
  [
    'as a parameter: postgres://db/x?user=a&password=hunter2&b=c',
    'as a parameter: postgres://db/x?user=a&password=***&b=c',
  ],
  ['capitals: POSTGRES://bob:hunter2@db', 'capitals: POSTGRES://bob:***@db'],
  ['no password: postgres://bob@db:5432/x', 'no password: postgres://bob@db:5432/x'],
  ['no password: http://db:5432/x', 'no password: http://db:5432/x'],
  ['a mail address: bob@example.org: hello', 'a mail address: bob@example.org: hello'],
])('maskUrls: %s', (text, masked) => {
  expect(maskUrls(text)).toBe(masked)
})

const LOG = `
  import { colour, log } from 'scripts/core/log.ts'
  log('error', 'first\\nsecond postgres://u:hunter2@h/')
  log('info', 'third')
  console.log(colour('red', 'plain'))
`

test.each([
  ['no variable', ''],
  ['the variable of another stream, inherited from a service that started our shell', '8:1234'],
])('log: %s: lines on standard error, masked, without colours', async (_, stream) => {
  const { stdout, stderr } = await runCode(LOG, { env: { JOURNAL_STREAM: stream } })
  expect({ stdout, stderr }).toEqual({
    stdout: 'plain\n',
    stderr: 'first\nsecond postgres://u:***@h/\nthird\n',
  })
})

test('log: under systemd: each line has the priority of its level', async () => {
  const { stderr } = await runCode(`
    import { fstatSync } from 'node:fs'
    const { dev, ino } = fstatSync(2)
    process.env.JOURNAL_STREAM = dev + ':' + ino
    const { log } = await import('scripts/core/log.ts')
    log('error', 'first\\nsecond postgres://u:hunter2@h/')
    log('info', 'third')
  `)
  expect(stderr).toBe('<3>first\n<3>second postgres://u:***@h/\n<6>third\n')
})
