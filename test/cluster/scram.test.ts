import { join } from 'node:path'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { userId } from '../../scripts/cluster/connect.ts'
import { isMd5, makeVerifier, matchesVerifier } from '../../scripts/cluster/scram.ts'
import { literal } from '../../scripts/cluster/sql.ts'
import { run } from '../../scripts/core/exec.ts'
import { writeFileAtomic } from '../../scripts/core/file.ts'
import { startServer, type TestServer } from '../support/server.ts'

// RFC 7677, section 3, gives the salt and the password; the keys follow from RFC 5802.
const PENCIL =
  'SCRAM-SHA-256$4096:W22ZaJ0SNY7soEsUEjb6gQ==$WG5d8oPm3OtcPnkdi4Uo7BkeZkBFzpcXkuLmtbsT4qY=:wfPLwcE6nTWhTAmQ7tl2KeoiWGPlZqQxSrmfPwDl2dU='
// md5('pencil' || 'user')
const PENCIL_MD5 = 'md520c46e3762c864548e296b33c3406aa9'

describe('matchesVerifier', () => {
  test.each([
    ['the password of the RFC', 'pencil', PENCIL, true],
    ['another password', 'Pencil', PENCIL, false],
    ['a server key that was tampered with', 'pencil', PENCIL.replace(/wfPL/, 'wfPM'), false],
    ['a stored key that was tampered with', 'pencil', PENCIL.replace(/WG5d/, 'WG5e'), false],
    ['the right password for an MD5 hash', 'pencil', PENCIL_MD5, true],
    ['a wrong password for an MD5 hash', 'pencils', PENCIL_MD5, false],
    ['a text that is no verifier', 'pencil', 'pencil', false],
    ['no iterations', 'pencil', PENCIL.replace('4096', '0'), false],
    ['a verifier with something after it', 'pencil', `${PENCIL}x`, false],
    ['an empty text', '', '', false],
  ])('%s', async (_, password, stored, expected) => {
    expect(await matchesVerifier(password, stored, 'user')).toBe(expected)
  })

  test('an MD5 hash: another role has another one', async () => {
    expect(await matchesVerifier('pencil', PENCIL_MD5, 'other')).toBe(false)
  })
})

describe('makeVerifier', () => {
  test.each([
    ['plain', 'pencil'],
    ['sharp s', 'Straße'],
    ['a ligature', 'ﬁ'],
    ['spaces around', ' lead and trail '],
    ['quotes and a backslash', `'"\\`],
    ['an emoji', '😀'],
    ['2000 letters', 'x'.repeat(2000)],
  ])('%s: fits its own password and no other', async (_, password) => {
    const verifier = await makeVerifier(password)
    expect(verifier).toMatch(/^SCRAM-SHA-256\$4096:[^$]{24}\$[^:]{44}:.{44}$/)
    expect(await matchesVerifier(password, verifier, 'r')).toBe(true)
    expect(await matchesVerifier(`${password}x`, verifier, 'r')).toBe(false)
  })

  test('two forms of one accented letter: are one password', async () => {
    expect(await matchesVerifier('\u00e9', await makeVerifier('e\u0301'), 'r')).toBe(true)
  })

  test('the same password twice: salts differ, so that equal passwords do not show', async () => {
    expect(await makeVerifier('pencil')).not.toBe(await makeVerifier('pencil'))
  })

  test('other iterations: are written into it and read from it', async () => {
    const verifier = await makeVerifier('pencil', 5000)
    expect(verifier).toContain('SCRAM-SHA-256$5000:')
    expect(await matchesVerifier('pencil', verifier, 'r')).toBe(true)
  })
})

test.each([
  ['an MD5 hash', PENCIL_MD5, true],
  ['a SCRAM verifier', PENCIL, false],
  ['no hash', 'md5', false],
])('isMd5: %s: %s', (_, stored, expected) => {
  expect(isMd5(stored)).toBe(expected)
})

describe('a real server', () => {
  let server: TestServer
  beforeAll(async () => {
    server = await startServer()
    const rules = 'local all postgres peer\nlocal all all scram-sha-256\n'
    await writeFileAtomic(join(server.cluster.dataDir, 'pg_hba.conf'), rules, {
      mode: 0o640,
      ...userId(server.cluster.osUser),
    })
    await server.query('postgres', 'create role login login')
    await server.query('postgres', 'select pg_reload_conf()')
  })
  afterAll(() => server[Symbol.asyncDispose]())

  test.each([
    ['plain', 'pencil'],
    ['sharp s', 'Straße'],
    ['a ligature, which is prepared to two letters', 'ﬁsh'],
    ['a combining accent', 'cafe\u0301'],
    ['full width letters', 'ｐａｓｓ'],
    ['no-break and zero width spaces', 'a\u00a0b\u200bc'],
    ['a soft hyphen', 'cor\u00adrect'],
    ['spaces around', '  lead and trail  '],
    ['quotes, backslashes and dollars', `'"\\$$'; drop role login; --`],
    ['an emoji, which is refused and taken as it is', 'ﬁsh😀'],
    ['a family of emoji with joiners', '👩‍👩‍👧'],
    ['Hebrew', 'סיסמה'],
    ['Hebrew beside Latin, which is refused and taken as it is', 'סיסמהﬁ'],
    ['a control character', 'a\u0001b'],
    ['a private character beside a ligature', 'ﬁ\ue000'],
    ['what looks like a verifier', PENCIL.slice(0, 40)],
    ['2000 letters', 'é'.repeat(1000)],
  ])("%s: our verifier lets libpq in, and the server's own verifies", async (_, password) => {
    await server.query('postgres', `alter role login password ${literal(await makeVerifier(password))}`)
    const login = (secret: string) =>
      run([`${server.cluster.bindir}/psql`, '-X', '-A', '-t', '-c', 'select session_user'], {
        env: {
          PGHOST: server.cluster.socketDir,
          PGUSER: 'login',
          PGDATABASE: 'postgres',
          PGPASSWORD: secret,
        },
        okCodes: [0, 2],
      })
    expect(await login(password)).toMatchObject({ code: 0, stdout: 'login\n' })
    expect((await login(`${password}x`)).stderr).toContain('password authentication failed')

    await server.query('postgres', `alter role login password ${literal(password)}`)
    expect(await matchesVerifier(password, await storedVerifier(), 'login')).toBe(true)
    expect(await matchesVerifier(`${password}x`, await storedVerifier(), 'login')).toBe(false)
  })

  test('an MD5 hash of the server: verifies for its role only', async () => {
    await server.query(
      'postgres',
      `set password_encryption = md5; alter role login password 'Straße'; reset password_encryption`,
    )
    expect(await storedVerifier()).toMatch(/^md5/)
    expect(await matchesVerifier('Straße', await storedVerifier(), 'login')).toBe(true)
    expect(await matchesVerifier('Straße', await storedVerifier(), 'other')).toBe(false)
  })

  async function storedVerifier(): Promise<string> {
    const rows = await server.query<{ stored: string }>(
      'postgres',
      `select rolpassword as stored from pg_authid where rolname = 'login'`,
    )
    return rows[0]!.stored
  }
})
