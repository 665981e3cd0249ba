import { randomBytes } from 'node:crypto'
import { access, constants, mkdir, readdir, readFile, rm, writeFile } from 'node:fs/promises'
import { join, resolve } from 'node:path'
import process from 'node:process'
import { Fail, messageOf } from '../core/fail.ts'
import { exists, reasonOf } from '../core/file.ts'
import { describeSecret, readSecret, type SecretRef } from '../core/secret.ts'
import { type Host } from '../host/schema.ts'

/** A private key that the age program can read. Disposed of, no copy of it is left. */
export interface Identity extends AsyncDisposable {
  /** Of a file. */
  readonly path: string
}

const PREFIX = 'howdah-identity-'

/**
 * Makes a private key readable for the age program, which takes files only. One that is in a file stays
 * where it is; any other is written to a file in memory that nobody else can read.
 * @param source a reference of the host file, or the path that an operator gave
 * @throws {Fail} `wrong-key` when it is no private key, `secret` when it cannot be had
 */
export async function openIdentity(source: SecretRef | { readonly path: string }): Promise<Identity> {
  await sweepLeftovers()
  const path = 'path' in source ? source.path : 'file' in source ? source.file : undefined
  if (path !== undefined) {
    assertIdentity(await contentOf(path), `file "${path}"`)
    return { path, async [Symbol.asyncDispose]() {} }
  }
  const ref = source as SecretRef
  const text = (await readSecret(ref)).reveal()
  assertIdentity(text, describeSecret(ref))
  // The name says whose it is: a later run removes those of the dead.
  const copy = join(memoryFolder(), `${PREFIX}${process.pid}-${randomBytes(6).toString('hex')}`)
  await mkdir(memoryFolder(), { recursive: true })
  await writeFile(copy, `${text}\n`, { mode: 0o600, flag: 'wx' })
  return {
    path: copy,
    async [Symbol.asyncDispose]() {
      await rm(copy, { force: true })
    },
  }
}

/**
 * The private key for what is encrypted: the operator's, else the host file's, else none.
 * @throws {Fail} `wrong-key`, `secret`
 */
export async function hostIdentity(host: Host, path: string | undefined): Promise<Identity | undefined> {
  if (path !== undefined) return openIdentity({ path: resolve(path) })
  const ref = host.encryption?.identity
  return ref === undefined ? undefined : openIdentity(ref)
}

function memoryFolder(): string {
  return process.env['RUNTIME_DIRECTORY']?.split(':')[0] ?? '/dev/shm'
}

async function contentOf(path: string): Promise<string> {
  try {
    await access(path, constants.R_OK)
    return await readFile(path, 'utf8')
  } catch (cause) {
    throw new Fail('secret', `cannot read the identity "${path}": ${reasonOf(cause)}`, {
      hint: 'It is the file with the private key, of which "howdah secret age" made the public one.',
      cause,
    })
  }
}

/** Never quotes what it finds. */
function assertIdentity(text: string, what: string): void {
  if (/^AGE-SECRET-KEY-1[0-9A-Z]+\s*$/m.test(text) || /^-----BEGIN .*PRIVATE KEY-----/m.test(text)) return
  const isPublic = /^(age1|ssh-)/m.test(text)
  throw new Fail('wrong-key', `${what} holds ${isPublic ? 'a public key' : 'no private key of age'}`, {
    hint: 'A private key has a line that begins with AGE-SECRET-KEY-1.',
  })
}

/** Removes what runs that were killed have left. */
async function sweepLeftovers(): Promise<void> {
  const folder = memoryFolder()
  const names = await readdir(folder).catch(() => [])
  for (const name of names.filter((name) => name.startsWith(PREFIX))) {
    const pid = /^\d+/.exec(name.slice(PREFIX.length))?.[0]
    if (pid !== undefined && (await exists(`/proc/${pid}`))) continue
    await rm(join(folder, name), { force: true }).catch((error: unknown) => {
      throw new Fail(
        'secret',
        `cannot remove "${join(folder, name)}", which a dead run left: ${messageOf(error)}`,
      )
    })
  }
}
