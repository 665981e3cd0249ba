import { randomUUID } from 'node:crypto'
import { setTimeout as sleep } from 'node:timers/promises'
import { interrupted } from '../core/interrupt.ts'
import { log } from '../core/log.ts'
import type { S3 } from './s3-client.ts'
import { isPrecondition } from './s3-fail.ts'
import { type Place, TOKEN } from './s3-upload.ts'

/** What is known of a bucket: whether it keeps to If-None-Match. */
export interface Conditions {
  known: 'kept' | 'ignored' | undefined
}

/** What is created where. */
export interface Creating {
  readonly s3: S3
  readonly at: Place
  /** Tries while others are about to write the key. */
  readonly attempts: number
  readonly conditions: Conditions
  /** Of the store, for people. */
  readonly url: string
}

/**
 * Stores a body if its key is free, in one request with If-None-Match.
 *
 * Some servers ignore that, or do so in a bucket that keeps versions (Ceph up to 16 at least). So the first
 * key that is made is asked for before, and put a second time, with the same content: a server that takes
 * it twice ignores the condition. There each key is asked for before it is made and after it was, which
 * two that write it at the very same moment may both survive.
 * @returns whether it was free
 */
export async function create(creating: Creating, body: Uint8Array): Promise<boolean> {
  const { s3, at, conditions, url } = creating
  if (conditions.known !== 'kept' && (await tokenOf(creating).catch(asUnknown)) !== undefined) return false
  const token = randomUUID()
  const put = () =>
    s3.send(
      new s3.sdk.PutObjectCommand({ ...at, Body: body, IfNoneMatch: '*', Metadata: { [TOKEN]: token } }),
      { abortSignal: interrupted },
    )
  if (!(await putOnce(creating, token, put))) return false
  if (conditions.known === undefined) {
    conditions.known = await put().then(
      () => 'ignored',
      (error: unknown) => (isPrecondition(error) ? 'kept' : undefined), // the next one asks again
    )
    if (conditions.known === 'ignored') {
      log(
        'warning',
        `store: ${url} does not keep two writers of one key apart, perhaps as it keeps versions: no two hosts may use one name in it`,
      )
    }
  }
  return conditions.known !== 'ignored' || (await tokenOf(creating)) === token
}

async function putOnce(creating: Creating, token: string, put: () => Promise<unknown>): Promise<boolean> {
  const { conditions, attempts } = creating
  for (let attempt = 1; ; attempt++) {
    try {
      await put()
      return true
    } catch (error) {
      if (isPrecondition(error)) conditions.known = 'kept'
      // The answer to an earlier try may have been lost, and then it is our own object that is in the way.
      if (isAmbiguous(error) || attempt > 1) {
        const found = await tokenOf(creating).catch((reason: unknown) => {
          throw isPrecondition(error) ? reason : error
        })
        if (found !== undefined) return found === token
      }
      if (!isPrecondition(error)) throw error
      // 412: somebody has the key. 409: somebody is about to, or fails; only another try can tell.
      if (error.name !== 'ConditionalRequestConflict') return false
      if (attempt === attempts) throw error
      await sleep(Math.random() * 100 * 2 ** attempt, undefined, { signal: interrupted })
    }
  }
}

/** Who made a key: its token, empty when it is of somebody else; undefined when the key is free. */
async function tokenOf({ s3, at }: Creating): Promise<string | undefined> {
  try {
    return (await s3.send(new s3.sdk.HeadObjectCommand(at))).Metadata?.[TOKEN] ?? ''
  } catch (error) {
    if (isMissing(error)) return undefined
    throw error
  }
}

/** Who may not list a bucket is not told what is missing: then only the condition can say it. */
function asUnknown(error: unknown): undefined {
  const { $metadata } = error as { readonly $metadata?: { readonly httpStatusCode?: number } }
  if ($metadata?.httpStatusCode !== 403) throw error
}

/** Whether the server may have done what it seems to have refused. */
function isAmbiguous(error: unknown): boolean {
  const { $metadata = {} } = error as {
    readonly $metadata?: { readonly attempts?: number; readonly httpStatusCode?: number }
  }
  return ($metadata.attempts ?? 1) > 1 || ($metadata.httpStatusCode ?? 500) >= 500
}

/** What the server says to a question without a body, where nothing can name the reason. */
function isMissing(error: unknown): boolean {
  return ['NotFound', 'NoSuchKey'].includes((error as Error).name)
}
