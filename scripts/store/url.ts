import { fileURLToPath, pathToFileURL } from 'node:url'
import { Fail } from '../core/fail.ts'
import { type StoreSpec, storeSchema } from '../host/schema.ts'

/** The URL of a store: `s3://bucket/prefix?endpoint=...&region=...` or `file:///folder`. Pure. */
export function storeUrl(spec: StoreSpec): string {
  if (spec.type === 'dir') return pathToFileURL(spec.path).href
  const query = new URLSearchParams({
    ...(spec.endpoint !== undefined && { endpoint: spec.endpoint }),
    region: spec.region,
  })
  const path = spec.prefix === undefined ? '' : `/${spec.prefix}`
  return `s3://${spec.bucket}${path}?${query.toString().replaceAll('%3A', ':').replaceAll('%2F', '/')}`
}

/**
 * The store that a URL names; credentials are never in it. Pure.
 * @throws {Fail} `usage`
 */
export function parseStoreUrl(text: string): StoreSpec {
  const url = URL.parse(text)
  if (url === null || !['s3:', 'file:'].includes(url.protocol)) throw wrong('is no URL of a store')
  if (url.username !== '' || url.password !== '') throw wrong('must not hold credentials')
  if (url.protocol === 'file:') return { type: 'dir', path: fileURLToPath(url).replace(/(?!^)\/$/, '') }
  const known = ['endpoint', 'region', 'path_style', 'ca_file']
  const unknown = [...url.searchParams.keys()].find((key) => !known.includes(key))
  if (unknown !== undefined) throw wrong(`has an option "${unknown}"; there are: ${known.join(', ')}`)
  const prefix = decodeURIComponent(url.pathname).replaceAll(/^\/|\/$/g, '')
  const query = Object.fromEntries(url.searchParams)
  const parsed = storeSchema.safeParse({
    type: 's3',
    bucket: url.hostname,
    ...(prefix !== '' && { prefix }),
    ...query,
    ...(query['path_style'] !== undefined && { path_style: query['path_style'] === 'true' }),
  })
  if (parsed.success) return parsed.data
  const { path, message } = parsed.error.issues[0]!
  throw wrong(`is wrong at ${path.join('.')}: ${message}`)
}

function wrong(how: string): Fail {
  return new Fail('usage', `the URL of the store ${how}`, {
    hint: 'Write it as s3://bucket/prefix?endpoint=https://s3.example.org&region=eu-1 or file:///folder',
  })
}
