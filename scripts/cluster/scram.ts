import { createHash, createHmac, pbkdf2, randomBytes, timingSafeEqual } from 'node:crypto'
import { promisify } from 'node:util'
import { saslprep } from './saslprep.ts'

const deriveKey = promisify(pbkdf2)

// The three numbers of PostgreSQL's own verifiers: src/include/common/scram-common.h.
const SALT_BYTES = 16
const KEY_BYTES = 32
const ITERATIONS = 4096

const VERIFIER =
  /^SCRAM-SHA-256\$(\d{1,10}):([A-Za-z0-9+/]+={0,2})\$([A-Za-z0-9+/]{43}=):([A-Za-z0-9+/]{43}=)$/

/**
 * Makes what pg_authid.rolpassword holds for a password: `SCRAM-SHA-256$4096:salt$stored:server`.
 * The salt is random, so two calls never give the same text. A verifier is a secret too: it allows
 * guessing without the server, and whoever has it can pose as the server.
 */
export async function makeVerifier(password: string, iterations = ITERATIONS): Promise<string> {
  const salt = randomBytes(SALT_BYTES)
  const { storedKey, serverKey } = await keysOf(password, salt, iterations)
  const base64 = (bytes: Buffer) => bytes.toString('base64')
  return `SCRAM-SHA-256$${iterations}:${base64(salt)}$${base64(storedKey)}:${base64(serverKey)}`
}

/**
 * Whether a password is the one behind a stored verifier. SCRAM is derived again with the stored
 * salt and iterations; MD5 hashes hold the role's name, which is why it is asked for. Anything else
 * matches nothing.
 */
export async function matchesVerifier(password: string, stored: string, role: string): Promise<boolean> {
  if (isMd5(stored)) {
    const wanted = createHash('md5').update(password).update(role).digest('hex')
    return timingSafeEqual(Buffer.from(`md5${wanted}`), Buffer.from(stored))
  }
  const [, iterations, salt, storedKey, serverKey] = VERIFIER.exec(stored) ?? []
  if (iterations === undefined || Number(iterations) < 1) return false
  const keys = await keysOf(password, Buffer.from(salt!, 'base64'), Number(iterations))
  const isStored = timingSafeEqual(keys.storedKey, Buffer.from(storedKey!, 'base64'))
  const isServer = timingSafeEqual(keys.serverKey, Buffer.from(serverKey!, 'base64'))
  return isStored && isServer
}

/** Whether a stored verifier is an MD5 hash, which a rule with method scram-sha-256 refuses. */
export function isMd5(stored: string): boolean {
  return /^md5[0-9a-f]{32}$/.test(stored)
}

// RFC 5802, section 3.
async function keysOf(
  password: string,
  salt: Buffer,
  iterations: number,
): Promise<{ storedKey: Buffer; serverKey: Buffer }> {
  const salted = await deriveKey(saslprep(password), salt, iterations, KEY_BYTES, 'sha256')
  const clientKey = hmac(salted, 'Client Key')
  const storedKey = createHash('sha256').update(clientKey).digest()
  return { storedKey, serverKey: hmac(salted, 'Server Key') }
}

function hmac(key: Buffer, text: string): Buffer {
  return createHmac('sha256', key).update(text).digest()
}
