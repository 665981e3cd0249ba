import { chmod, mkdir, mkdtemp, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { format, inspect } from 'node:util'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import {
  describeSecret,
  placeholderReason,
  readSecret,
  Secret,
  type SecretRef,
} from '../../scripts/core/secret.ts'
import { runCode } from '../support/code.ts'

const isRoot = process.getuid?.() === 0

let dir: string
beforeAll(async () => {
  dir = await mkdtemp(join(tmpdir(), 'howdah-secret-'))
  await chmod(dir, 0o755)
})
afterAll(() => rm(dir, { recursive: true }))

test('Secret: printed in every way there is: never shows itself', () => {
  const secret = new Secret('hunter2')
  const holder = { secret, list: [secret], map: new Map([['a', secret]]) }
  const shown = [
    String(secret),
    ['', secret].join(''),
    JSON.stringify(holder),
    inspect(holder, { depth: 9, showHidden: true }),
    format('%s %o %O %j', secret, secret, secret, secret),
    Object.entries(secret).join(),
    JSON.stringify(Object.assign({}, secret)),
    inspect(structuredClone(Object.assign({}, secret))),
    inspect(new Error('x', { cause: secret })),
  ]
  for (const text of shown) expect(text).not.toContain('hunter2')
  expect(String(secret)).toBe('[secret]')
  expect(secret.reveal()).toBe('hunter2')
})

describe('readSecret', () => {
  test.each([
    ['one line break at the end is not part of it', 'hunter2\n', 'hunter2'],
    ['nor is one of another system', 'hunter2\r\n', 'hunter2'],
    ['but a second one is', 'hunter2\n\n', 'hunter2\n'],
    ['and so are spaces', ' hunter2 ', ' hunter2 '],
    ['and letters that are not ASCII', 'ß 😀\n', 'ß 😀'],
  ])('a file: %s', async (_, content, secret) => {
    const path = join(dir, 'file')
    await writeFile(path, content)
    expect((await readSecret({ file: path })).reveal()).toBe(secret)
  })

  test('a variable of the environment: as it is', async () => {
    expect((await readSecret({ env: 'X' }, { X: ' hunter2\n' })).reveal()).toBe(' hunter2\n')
  })

  test('a credential: from the folder that systemd names', async () => {
    await writeFile(join(dir, 'pg_app'), 'hunter2\n')
    const secret = await readSecret({ credential: 'pg_app' }, { CREDENTIALS_DIRECTORY: dir })
    expect(secret.reveal()).toBe('hunter2')
  })

  test('a credential: without systemd from the folder that LoadCredential reads, too', async () => {
    await expect(readSecret({ credential: 'howdah-no-such' }, {})).rejects.toMatchObject({
      code: 'secret',
      message: 'secret file "/etc/credstore/howdah-no-such" does not exist',
    })
  })

  test('a command: its output, with the environment of the operator', async () => {
    const { stdout } = await runCode(
      `import { readSecret } from 'scripts/core/secret.ts'
       console.log((await readSecret({ command: ['sh', '-c', 'echo "$1$VAULT"', 'sh', 'it is '] })).reveal())`,
      { env: { VAULT: 'hunter2' } },
    )
    expect(stdout).toBe('it is hunter2\n')
  })

  test.each<[string, SecretRef, string, RegExp]>([
    [
      'a variable that is not set',
      { env: 'HOWDAH_NO_SUCH' },
      'environment variable HOWDAH_NO_SUCH is not set',
      /Set HOWDAH_NO_SUCH/,
    ],
    [
      'a file that is not there',
      { file: '/nowhere/x' },
      'secret file "/nowhere/x" does not exist',
      /howdah secret generate \/nowhere\/x/,
    ],
    ['a folder', { file: '/etc' }, 'secret file "/etc" cannot be read: it is a folder', /ls -l \/etc/],
    [
      'a command that fails',
      { command: ['sh', '-c', 'echo sealed >&2; exit 3'] },
      'cannot have a secret by a command: sh ended with exit code 3',
      /^sealed$/,
    ],
    [
      'a command that is not there',
      { command: ['howdah-no-such'] },
      'cannot have a secret by a command: program "howdah-no-such" is not installed',
      /./,
    ],
  ])('%s: is said, with what to do', async (_, ref, message, hint) => {
    await expect(readSecret(ref)).rejects.toMatchObject({
      code: 'secret',
      message: expect.stringContaining(message),
      hint: expect.stringMatching(hint),
    })
  })

  const readAs = (uid: number, path: string) =>
    runCode(
      `import { readSecret } from 'scripts/core/secret.ts'
       await readSecret({ file: '${path}' }).catch((error) => console.log(error.code, error.message, error.hint))`,
      { uid, gid: uid },
    )

  test.runIf(isRoot)('a file of somebody else: the file and the user are named', async () => {
    const path = join(dir, 'mine')
    await writeFile(path, 'hunter2', { mode: 0o400 })
    expect(await readAs(65_534, path)).toMatchObject({
      stdout: `secret secret file "${path}" cannot be read by user "nobody" Run this as the owner of the file (see: ls -l ${path}), or as root.\n`,
      stderr: '',
    })
  })

  test.runIf(isRoot)('a user without a name, in a folder that is closed: the number is named', async () => {
    await mkdir(join(dir, 'closed'), { mode: 0o700 })
    const path = join(dir, 'closed', 'x')
    expect((await readAs(54_321, path)).stdout).toContain(
      `secret file "${path}" cannot be read by user "54321"`,
    )
  })
})

test.each<[SecretRef, string]>([
  [{ file: '/x y' }, 'file "/x y"'],
  [{ env: 'X' }, 'environment variable X'],
  [{ credential: 'x' }, 'credential "x"'],
  [{ command: ['pass', 'show', 'x'] }, 'command "pass"'],
])('describeSecret: %j: %s', (ref, text) => {
  expect(describeSecret(ref)).toBe(text)
})

test.each([
  ['', 'is empty'],
  ['  ', 'is a placeholder or a well-known default'],
  ['postgres', 'is a placeholder or a well-known default'],
  ['Password', 'is a placeholder or a well-known default'],
  ['changeme', 'is a placeholder or a well-known default'],
  ['CHANGE_ME', 'is a placeholder or a well-known default'],
  ['extremeAO!', 'is a placeholder or a well-known default'],
  ['lablink', 'is a placeholder or a well-known default'],
  ['your-password-here', 'is a placeholder or a well-known default'],
  ['<password>', 'is a placeholder or a well-known default'],
  ['${DB_PASSWORD}', 'is a placeholder or a well-known default'],
  ['$DB_PASSWORD', 'is a placeholder or a well-known default'],
  ['{{ password }}', 'is a placeholder or a well-known default'],
  ['12345678', 'is a placeholder or a well-known default'],
  ['xxxxxxxx', 'is a placeholder or a well-known default'],
  ['a\0b', 'holds a NUL byte'],
  ['correct horse battery staple', undefined],
  ['postgres-is-not-all-of-it', undefined],
  ['pässwörd', undefined],
  ['1234 trees stand in this forest', undefined],
])('placeholderReason: %j: %s', (text, reason) => {
  expect(placeholderReason(text)).toBe(reason)
})
