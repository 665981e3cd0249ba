import { describe, expect, test } from 'vitest'
import { isMd5, makeVerifier, matchesVerifier } from '../../scripts/cluster/scram.ts'

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
