import { once } from 'node:events'
import { createConnection } from 'node:net'
import * as sdk from '@aws-sdk/client-s3'
import { inject } from 'vitest'
import { Fail } from '../../scripts/core/fail.ts'
import type { StoreSpec } from '../../scripts/host/schema.ts'
import type { S3Address, S3User } from './ceph.ts'

/** A server with an owner's eyes on it. */
export interface S3Server extends S3Address {
  readonly client: sdk.S3Client
  /** Makes an empty bucket. @returns its name */
  makeBucket(options?: { readonly objectLock?: boolean }): Promise<string>
  /** A store in it. The secrets are in this process's environment, as S3_KEY_... by the user's id. */
  spec(bucket: string, more?: Partial<S3Spec>, user?: S3User): S3Spec
  /** Lets the other user do these things in a bucket and nothing else: `s3:GetObject`. */
  allow(bucket: string, actions: readonly string[]): Promise<void>
  /** Keys of uploads that were begun, and neither completed nor aborted. */
  uploads(bucket: string): Promise<string[]>
}

type S3Spec = Extract<StoreSpec, { type: 's3' }>

declare module 'vitest' {
  export interface ProvidedContext {
    /** Socket that says where the S3 server of this run is, once it runs. */
    s3Socket: string
  }
}

/**
 * The S3 server of this run of tests; the first to ask waits some 15 s for it.
 * @throws {Fail} `not-permitted` when its programs are not installed
 */
export async function startS3(): Promise<S3Server> {
  const socket = createConnection(inject('s3Socket'))
  let text = ''
  socket.setEncoding('utf8').on('data', (chunk: string) => (text += chunk))
  await once(socket, 'close')
  const answer = JSON.parse(text) as S3Address | { readonly error: string }
  if ('error' in answer) throw new Fail('not-permitted', answer.error)
  return serverAt(answer)
}

let buckets = 0

function serverAt(address: S3Address): S3Server {
  const { endpoint, owner, other } = address
  const client = new sdk.S3Client({
    endpoint,
    region: 'us-east-1',
    forcePathStyle: true,
    credentials: { accessKeyId: owner.accessKey, secretAccessKey: owner.secretKey },
  })
  for (const { id, accessKey, secretKey } of [owner, other]) {
    process.env[`S3_KEY_${id}`] = accessKey
    process.env[`S3_SECRET_${id}`] = secretKey
  }
  return {
    ...address,
    client,
    async makeBucket({ objectLock = false } = {}) {
      buckets += 1
      const Bucket = `test-${process.pid}-${buckets}`
      await client.send(new sdk.CreateBucketCommand({ Bucket, ObjectLockEnabledForBucket: objectLock }))
      return Bucket
    },
    spec: (bucket, more = {}, user = owner) => ({
      type: 's3',
      bucket,
      region: 'us-east-1',
      endpoint,
      access_key: { env: `S3_KEY_${user.id}` },
      secret_key: { env: `S3_SECRET_${user.id}` },
      ...more,
    }),
    async allow(bucket, actions) {
      const statement = {
        Effect: 'Allow',
        Principal: { AWS: [`arn:aws:iam:::user/${other.id}`] },
        Action: actions,
        Resource: [`arn:aws:s3:::${bucket}`, `arn:aws:s3:::${bucket}/*`],
      }
      const Policy = JSON.stringify({ Version: '2012-10-17', Statement: [statement] })
      await client.send(new sdk.PutBucketPolicyCommand({ Bucket: bucket, Policy }))
    },
    async uploads(bucket) {
      const { Uploads } = await client.send(new sdk.ListMultipartUploadsCommand({ Bucket: bucket }))
      return (Uploads ?? []).map(({ Key }) => Key!)
    },
  }
}
