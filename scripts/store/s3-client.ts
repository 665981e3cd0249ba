import { createHash } from 'node:crypto'
import { readFile } from 'node:fs/promises'
import type { S3Client } from '@aws-sdk/client-s3'
import type * as Sdk from '@aws-sdk/client-s3'
import { Fail } from '../core/fail.ts'
import { reasonOf } from '../core/file.ts'
import { readSecret, type SecretRef } from '../core/secret.ts'
import type { StoreSpec } from '../host/schema.ts'

/** A bucket as the host file describes it. */
export type S3Spec = Extract<StoreSpec, { type: 's3' }>

/** Patience with a server. */
export interface S3Options {
  /** Tries of each request, with growing random pauses of some 2 s in all; default 5. */
  readonly attempts?: number
  /** Until a connection stands; default 10 s. */
  readonly connectMilliseconds?: number
  /** Without a byte in either direction; default 60 s. An upload in parts waits for about as long in all before it is given up. */
  readonly idleMilliseconds?: number
}

type Send = S3Client['send']

/** The SDK, loaded, and how to send its commands. */
export interface S3 {
  readonly sdk: typeof Sdk
  readonly send: Send
}

/** What {@link S3Options} leaves out. */
export const PATIENCE = {
  attempts: 5,
  connectMilliseconds: 10_000,
  idleMilliseconds: 60_000,
} as const satisfies Required<S3Options>

/** How long credentials are used before their source is asked again: files and commands may have newer ones. */
const CREDENTIAL_MINUTES = 10

const EXPIRED = new Set(['ExpiredToken', 'ExpiredTokenException', 'TokenRefreshRequired'])

/**
 * A client of a bucket's server. Credentials are read at its first request, and again when the server
 * finds that they have expired.
 * @throws {Fail} `file-unreadable` when `ca_file` cannot be read
 */
export async function s3Client(sdk: typeof Sdk, spec: S3Spec, options: S3Options): Promise<S3> {
  const ca = spec.ca_file === undefined ? undefined : await readAuthority(spec.ca_file)
  const making: Making = { options, ca, isSummed: false }
  let client = makeClient(sdk, spec, making)
  const send = around(((...args: Parameters<Send>) => client.send(...args)) as Send, async (request) => {
    const used = client
    const wasSummed = making.isSummed
    try {
      return await request()
    } catch (error) {
      const { name } = error as Error
      // A bucket that locks what is written takes nothing without it, and nobody else wants it: it costs time.
      if (!wasSummed && /content-md5/i.test((error as Error).message)) {
        making.isSummed = true
        return request()
      }
      // The SDK corrects for a clock that goes wrong. When it is set right, one request still fails.
      if (name === 'RequestTimeTooSkewed') return request()
      if (!EXPIRED.has(name)) throw error
      // A client keeps its credentials, so there has to be a new one. Requests on the way keep theirs.
      if (client === used) client = makeClient(sdk, spec, making)
      return request()
    }
  })
  return { sdk, send }
}

/** Sends in the same way, with something around every request. */
export function around(send: Send, wrap: (request: () => Promise<unknown>) => Promise<unknown>): Send {
  // The SDK's type has a form for each command, and one that calls back.
  const plain = send as unknown as (...args: readonly unknown[]) => Promise<unknown>
  return (...args: readonly unknown[]) => wrap(() => plain(...args)) as never
}

interface Making {
  readonly options: S3Options
  readonly ca: Buffer | undefined
  /** Whether bodies that are stored need a Content-MD5, too. */
  isSummed: boolean
}

function makeClient(sdk: typeof Sdk, spec: S3Spec, making: Making): S3Client {
  const { options, ca } = making
  const patience = { ...PATIENCE, ...options }
  const client = new sdk.S3Client({
    region: spec.region,
    ...(spec.endpoint !== undefined && { endpoint: spec.endpoint }),
    forcePathStyle: spec.path_style ?? spec.endpoint !== undefined,
    ...(spec.access_key !== undefined && { credentials: () => credentialsOf(spec) }),
    maxAttempts: patience.attempts,
    retryMode: 'standard',
    // The default, a CRC32 in every request, is refused by servers that are only compatible.
    requestChecksumCalculation: 'WHEN_REQUIRED',
    responseChecksumValidation: 'WHEN_REQUIRED',
    // The default opens a new connection for every part, and waits 6 s where a server does not know it.
    expectContinueHeader: false,
    requestHandler: {
      connectionTimeout: patience.connectMilliseconds,
      socketTimeout: patience.idleMilliseconds,
      ...(ca && { httpsAgent: { ca } }),
    },
  })
  client.middlewareStack.add(contentMd5(making), { step: 'build', priority: 'low', name: 'contentMd5' })
  return client
}

interface Request {
  readonly headers: Record<string, string>
  readonly body: unknown
}

/**
 * A request to delete needs a checksum of its body, and one to store in a bucket with locks. Every server
 * knows MD5; the CRC32 that the SDK sends is news to many.
 */
function contentMd5(making: Making) {
  const stores = new Set(['PutObjectCommand', 'UploadPartCommand'])
  return <Args extends object, Result>(
    next: (args: Args) => Promise<Result>,
    { commandName = '' }: { readonly commandName?: string },
  ): ((args: Args) => Promise<Result>) =>
    async (args) => {
      if (commandName === 'DeleteObjectsCommand' || (making.isSummed && stores.has(commandName))) {
        const { headers, body } = (args as unknown as { readonly request: Request }).request
        for (const name of Object.keys(headers)) {
          if (/^x-amz-(sdk-)?checksum-/i.test(name)) delete headers[name]
        }
        headers['content-md5'] = createHash('md5')
          .update(body as string | Uint8Array)
          .digest('base64')
      }
      return next(args)
    }
}

async function readAuthority(path: string): Promise<Buffer> {
  try {
    return await readFile(path)
  } catch (cause) {
    throw new Fail('file-unreadable', `cannot read ca_file "${path}" of the store: ${reasonOf(cause)}`, {
      hint: `Look at it: ls -l ${path}`,
      cause,
    })
  }
}

interface Credentials {
  readonly accessKeyId: string
  readonly secretAccessKey: string
  readonly sessionToken?: string
  readonly expiration: Date
}

async function credentialsOf(spec: S3Spec): Promise<Credentials> {
  const read = async (ref: SecretRef) => (await readSecret(ref)).reveal()
  return {
    accessKeyId: await read(spec.access_key!),
    secretAccessKey: await read(spec.secret_key!),
    ...(spec.session_token && { sessionToken: await read(spec.session_token) }),
    expiration: new Date(Date.now() + CREDENTIAL_MINUTES * 60_000),
  }
}
