import { type Code, Fail, messageOf } from '../core/fail.ts'

interface S3Error {
  readonly name?: string
  readonly code?: string
  readonly message?: string
  readonly $metadata?: { readonly httpStatusCode?: number; readonly attempts?: number }
}

/** Names that servers give to errors, with the code and the hint that they become. */
const NAMED: Readonly<Record<string, readonly [Code, string]>> = {
  AccessDenied: [
    'store-denied',
    'The key needs GetObject, PutObject, DeleteObject and ListBucket; without the last, what is missing looks denied. What is locked cannot be deleted by any.',
  ],
  NoSuchBucket: ['store-denied', 'There is no such bucket: make it, or correct its name in the host file.'],
  InvalidAccessKeyId: ['store-denied', 'The server does not know this access key: is it of another store?'],
  SignatureDoesNotMatch: [
    'store-denied',
    'The secret key is not that of the access key, or the region is wrong.',
  ],
  RequestTimeTooSkewed: ['store-denied', 'The clock of this host is wrong: timedatectl'],
  ExpiredToken: ['store-denied', 'The credentials have expired: renew them.'],
  AuthorizationHeaderMalformed: ['store-denied', 'The region is wrong: correct it in the host file.'],
  PermanentRedirect: ['store-denied', 'The bucket is in another region: correct it in the host file.'],
  CredentialsProviderError: [
    'store-denied',
    'Name them: access_key and secret_key of the store in the host file.',
  ],
  QuotaExceeded: ['no-space', 'Its quota is used up: howdah backup prune, or a greater one.'],
  EntityTooLarge: ['no-space', 'The server takes no object of this size.'],
  PreconditionFailed: ['store-denied', 'It was replaced meanwhile: try again.'],
  InternalError: ['store-unreachable', 'The server has a problem: try again later.'],
  SlowDown: ['store-unreachable', 'The server is overloaded: try again later.'],
  NoSuchUpload: [
    'store-unreachable',
    'Somebody ended the upload: is there a lifecycle rule that is too eager?',
  ],
}

/** Why TLS does not trust a server. */
const UNTRUSTED = /^(CERT_|DEPTH_ZERO|SELF_SIGNED|UNABLE_TO|ERR_TLS)/

/** What a network says when nobody can be reached. */
const UNREACHABLE =
  /^(ECONN|ENOTFOUND|EAI_|EPIPE|ETIMEDOUT|EHOST|ENET|TimeoutError|AbortError|EPROTO|ERR_SSL)/

/** Whether an error says that a condition of the request does not hold. */
export function isPrecondition(error: unknown): error is Error {
  const { name, $metadata } = error as S3Error
  return (
    name === 'PreconditionFailed' ||
    name === 'ConditionalRequestConflict' ||
    $metadata?.httpStatusCode === 412
  )
}

/** Whether a name that a server gives to an error is of one that may pass. */
export function isRetryable(name = ''): boolean {
  return /^(InternalError|SlowDown|ServiceUnavailable|RequestTimeout|OperationAborted)$/.test(name)
}

/**
 * What the SDK threw, for people. It never quotes credentials: the SDK's texts have none.
 * @param what was tried: `read "a/b"`
 */
export function s3Fail(error: unknown, url: string, what: string): unknown {
  if (error instanceof Fail) return error
  const { name = '' } = error as S3Error
  if (name === 'NoSuchKey') {
    return new Fail('store-missing', `the store has no ${what.replace(/^\w+ /, '')}`, { cause: error })
  }
  const [code, hint] = Object.hasOwn(NAMED, name) ? NAMED[name]! : byStatus(error as S3Error)
  const tries = (error as S3Error).$metadata?.attempts ?? 1
  const after = code === 'store-unreachable' && tries > 1 ? `, after ${tries} tries` : ''
  return new Fail(code, `cannot ${what} in ${url}: ${describe(error)}${after}`, { hint, cause: error })
}

function byStatus({ name = '', code = '', $metadata }: S3Error): readonly [Code, string | undefined] {
  const status = $metadata?.httpStatusCode
  if (UNTRUSTED.test(code)) {
    return ['store-unreachable', 'Its certificate is not trusted: name that of its authority as ca_file.']
  }
  if (status === 507) return ['no-space', undefined]
  if (status === 403) return NAMED['AccessDenied']!
  const isAnswer = status !== undefined && status < 500 && status !== 429
  if (isAnswer && !UNREACHABLE.test(code) && !UNREACHABLE.test(name)) return ['store-denied', undefined]
  return ['store-unreachable', 'Does the server run, and is the endpoint right?']
}

/** The name of an error, and what it says, where it says more. */
function describe(error: unknown): string {
  const { name = '', code } = error as S3Error
  const text = messageOf(error)
  const label = code ?? name
  if (text === '' || text === 'UnknownError' || text === label) return label || 'no reason is given'
  return label === '' || label === 'Error' || text.includes(label) ? text : `${label}: ${text}`
}
