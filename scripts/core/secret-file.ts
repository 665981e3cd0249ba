import { randomBytes, randomInt } from 'node:crypto'
import { link, open, rm } from 'node:fs/promises'
import { dirname, join } from 'node:path'
import { Fail, messageOf } from './fail.ts'
import { type Access, exists, isMissing, syncFolder } from './file.ts'
import { Secret } from './secret.ts'

// Letters and digits only: such a text needs no quoting in any shell, URL or configuration file.
const ALPHABET = 'ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789'

/** 22 characters out of 62 are 131 bits. */
export const MIN_SECRET_LENGTH = 22

/** 190 bits. */
export const SECRET_LENGTH = 32

/** Makes a random secret of letters and digits. */
export function makeSecret(length: number = SECRET_LENGTH): Secret {
  return new Secret(Array.from({ length }, () => ALPHABET[randomInt(ALPHABET.length)]).join(''))
}

/**
 * Writes a secret to a new file, whole or not at all, and never over one that is there.
 * @returns whether it was written: false when there was a file already
 * @throws {Fail} `file-unreadable`
 */
export async function createSecretFile(path: string, secret: Secret, access: Access): Promise<boolean> {
  if (await exists(path)) return false
  const temporary = join(dirname(path), `.${randomBytes(6).toString('hex')}.howdah-tmp`)
  try {
    await writeNew(temporary, secret, access)
    await link(temporary, path) // commit point: unlike a rename it fails when somebody else was faster
    return true
  } catch (cause) {
    if ((cause as NodeJS.ErrnoException).code === 'EEXIST') return false
    throw failure(path, cause)
  } finally {
    await rm(temporary, { force: true })
    await syncFolder(dirname(path)).catch(() => {}) // a folder that is missing has told its story above
  }
}

/**
 * Writes a secret to a path where nothing is, not even a link; durable when it returns. A final line
 * break tells a whole file from one that a crash cut short.
 * @throws {Fail} `file-unreadable`
 */
export async function writeSecretFile(path: string, secret: Secret, access: Access): Promise<void> {
  try {
    await writeNew(path, secret, access)
    await syncFolder(dirname(path))
  } catch (cause) {
    throw failure(path, cause)
  }
}

async function writeNew(path: string, secret: Secret, access: Access): Promise<void> {
  const file = await open(path, 'wx', 0o600)
  try {
    if (access.uid !== undefined && access.gid !== undefined) await file.chown(access.uid, access.gid)
    await file.chmod(access.mode)
    await file.writeFile(`${secret.reveal()}\n`)
    await file.sync()
  } finally {
    await file.close()
  }
}

function failure(path: string, cause: unknown): Fail {
  const code = (cause as NodeJS.ErrnoException).code
  if (code === 'EACCES' || code === 'EPERM') {
    return new Fail('file-unreadable', `cannot write "${path}": permission denied`, {
      hint: `Run this as root, or as the owner of ${dirname(path)}.`,
      cause,
    })
  }
  const reason = isMissing(cause) ? `there is no folder "${dirname(path)}"` : messageOf(cause)
  return new Fail('file-unreadable', `cannot write "${path}": ${reason}`, { cause })
}
