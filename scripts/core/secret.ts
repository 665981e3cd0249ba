import { readFile } from 'node:fs/promises'
import { join } from 'node:path'
import { inspect } from 'node:util'
import { run } from './exec.ts'
import { Fail } from './fail.ts'
import { reasonOf } from './file.ts'
import { currentUser } from './user.ts'

/** Where a secret comes from. The host file holds references only, never the secret itself. */
export type SecretRef =
  | { readonly file: string }
  | { readonly env: string }
  | { readonly credential: string }
  | { readonly command: readonly string[] }

/** A text that never shows itself: printed, inspected or serialised it is `[secret]`. */
export class Secret {
  readonly #text: string

  constructor(text: string) {
    this.#text = text
  }

  /** The text itself. Whoever calls this must not let it reach argv, a log, a plan or an error. */
  reveal(): string {
    return this.#text
  }

  toString(): string {
    return '[secret]'
  }

  toJSON(): string {
    return '[secret]'
  }

  [inspect.custom](): string {
    return '[secret]'
  }
}

/** Words that documents and images ship as passwords, and what stands where one was never filled in. */
const PLACEHOLDERS =
  /^(|password|passwd|postgres|postgresql|secret|admin|root|changeme|change[-_ ]?me|lablink|openwec|walt|xtelem|extremeAO!|your[-_ ]?password.*|example|test|1234\d*|xxx+|<.*>|\$\{.*\}|\$[A-Z_]+|\{\{.*\}\}|todo|none|null)$/i

/** Why a text is no password, or `undefined` when nothing speaks against it. */
export function placeholderReason(text: string): string | undefined {
  if (text === '') return 'is empty'
  if (PLACEHOLDERS.test(text.trim())) return 'is a placeholder or a well-known default'
  if (text.includes('\0')) return 'holds a NUL byte'
  return undefined
}

/** Names a reference for messages: `file "/etc/howdah/secrets/x"`. */
export function describeSecret(ref: SecretRef): string {
  if ('file' in ref) return `file "${ref.file}"`
  if ('env' in ref) return `environment variable ${ref.env}`
  if ('credential' in ref) return `credential "${ref.credential}"`
  return `command "${ref.command[0] ?? ''}"`
}

/**
 * Reads a secret. One final line break is not part of it.
 * @throws {Fail} `secret` when it is missing or unreadable, with the path and the user in the message
 */
export async function readSecret(
  ref: SecretRef,
  environment: NodeJS.ProcessEnv = process.env,
): Promise<Secret> {
  if ('env' in ref) {
    const text = environment[ref.env]
    if (text === undefined) {
      throw new Fail('secret', `environment variable ${ref.env} is not set`, {
        hint: `Set ${ref.env} for this command, or refer to the secret by { file = ... }.`,
      })
    }
    return new Secret(text)
  }
  if ('command' in ref) {
    return new Secret(withoutLineBreak(await outputOf(ref.command)))
  }
  return readSecretFile('file' in ref ? ref.file : credentialPath(ref.credential, environment))
}

/** `$CREDENTIALS_DIRECTORY/NAME` under systemd, else `/etc/credstore/NAME`: the file that `LoadCredential=NAME` finds too. */
function credentialPath(name: string, environment: NodeJS.ProcessEnv): string {
  return join(environment['CREDENTIALS_DIRECTORY'] ?? '/etc/credstore', name)
}

async function outputOf(command: readonly string[]): Promise<string> {
  try {
    return (await run(command, { timeoutSeconds: 60, keepEnvironment: true })).stdout
  } catch (cause) {
    if (!(cause instanceof Fail) || cause.code === 'interrupted') throw cause
    throw new Fail('secret', `cannot have a secret by a command: ${cause.message}`, {
      hint: cause.hint,
      cause,
    })
  }
}

async function readSecretFile(path: string): Promise<Secret> {
  try {
    return new Secret(withoutLineBreak(await readFile(path, 'utf8')))
  } catch (cause) {
    const code = (cause as NodeJS.ErrnoException).code
    const user = currentUser()
    if (code === 'ENOENT') {
      throw new Fail('secret', `secret file "${path}" does not exist`, {
        hint: `Make it with: howdah secret generate ${path}`,
        cause,
      })
    }
    if (code === 'EACCES' || code === 'EPERM') {
      throw new Fail('secret', `secret file "${path}" cannot be read by user "${user}"`, {
        hint: `Run this as the owner of the file (see: ls -l ${path}), or as root.`,
        cause,
      })
    }
    throw new Fail('secret', `secret file "${path}" cannot be read: ${reasonOf(cause)}`, {
      hint: `Look at it: ls -l ${path}`,
      cause,
    })
  }
}

function withoutLineBreak(text: string): string {
  return text.replace(/\r?\n$/, '')
}
