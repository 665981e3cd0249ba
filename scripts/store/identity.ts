import { randomBytes } from 'node:crypto'
import { mkdir, readdir, readFile, rm, writeFile } from 'node:fs/promises'
import { join, resolve } from 'node:path'
import process from 'node:process'
import { run } from '../core/exec.ts'
import { Fail } from '../core/fail.ts'
import { reasonOf } from '../core/file.ts'
import { describeSecret, readSecret, Secret, type SecretRef } from '../core/secret.ts'
import type { Host } from '../host/schema.ts'

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
  await sweepIdentities()
  const path = 'path' in source ? source.path : 'file' in source ? source.file : undefined
  if (path !== undefined) {
    assertIdentity(await contentOf(path), `file "${path}"`)
    return { path, async [Symbol.asyncDispose]() {} }
  }
  const ref = source as SecretRef
  const text = (await readSecret(ref)).reveal()
  assertIdentity(text, describeSecret(ref))
  // The name says whose it is: a later run removes those of the dead.
  const own = `${process.pid}-${await startOf(process.pid)}-${randomBytes(6).toString('hex')}`
  const copy = join(memoryFolder(), PREFIX + own)
  const remove = () => rm(copy, { force: true })
  try {
    await mkdir(memoryFolder(), { recursive: true })
    await writeFile(copy, `${text}\n`, { mode: 0o600, flag: 'wx' })
  } catch (cause) {
    await remove()
    throw new Fail('secret', `cannot write an identity for age to "${copy}": ${reasonOf(cause)}`, { cause })
  }
  return { path: copy, [Symbol.asyncDispose]: remove }
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

/** A new pair of keys of age. */
export interface KeyPair {
  /** The public key: goes into the host file. */
  readonly recipient: string
  /** The private key. */
  readonly identity: Secret
}

/**
 * Makes a pair of keys; nothing of it is kept.
 * @throws {Fail} `not-permitted` when age is not installed
 */
export async function makeKeyPair(): Promise<KeyPair> {
  const { stdout } = await run(['age-keygen'])
  const recipient = /^# public key: (age1[0-9a-z]+)$/m.exec(stdout)?.[1]
  const identity = /^AGE-SECRET-KEY-1[0-9A-Z]+$/m.exec(stdout)?.[0]
  if (recipient !== undefined && identity !== undefined) return { recipient, identity: new Secret(identity) }
  throw new Fail('command-failed', 'age-keygen printed no pair of keys')
}

function memoryFolder(): string {
  return process.env['RUNTIME_DIRECTORY']?.split(':')[0] ?? '/dev/shm'
}

async function contentOf(path: string): Promise<string> {
  try {
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

/** Files with private keys that runs have left which were killed. */
export async function leftIdentities(): Promise<string[]> {
  const folder = memoryFolder()
  const left: string[] = []
  for (const name of await readdir(folder).catch(() => [])) {
    const [pid, start] = name.startsWith(PREFIX) ? name.slice(PREFIX.length).split('-') : []
    if (pid === undefined || (start !== undefined && (await startOf(pid)) === start)) continue
    left.push(join(folder, name))
  }
  return left
}

/** Removes such files. What another user left is theirs. @returns those that are gone */
export async function sweepIdentities(): Promise<string[]> {
  const gone: string[] = []
  for (const path of await leftIdentities()) {
    const isGone = await rm(path, { force: true }).then(
      () => true,
      () => false, // not ours to remove: its owner's next run does
    )
    if (isGone) gone.push(path)
  }
  return gone
}

/**
 * When a process began, in ticks since boot: with its id it names a process for ever, since ids come again.
 * Field 22 of proc(5)'s stat; the second one, in parentheses, may hold anything.
 * @returns undefined when there is none
 */
async function startOf(pid: number | string): Promise<string | undefined> {
  const text = await readFile(`/proc/${pid}/stat`, 'utf8').catch(() => undefined)
  return text?.slice(text.lastIndexOf(')') + 2).split(' ')[22 - 3]
}
