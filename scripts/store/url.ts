import { fileURLToPath, pathToFileURL } from 'node:url'
import { Fail } from '../core/fail.ts'
import { type StoreSpec, storeSchema } from '../host/schema.ts'

/** The URL of a store: `s3://bucket/prefix?endpoint=...&region=...` or `file:///folder`. Pure. */
export function storeUrl(spec: StoreSpec): string {
  if (spec.type === 'dir') return pathToFileURL(spec.path).href
  const query = new URLSearchParams({
    ...(spec.endpoint !== undefined && { endpoint: spec.endpoint }),
    region: spec.region,
    ...(spec.path_style !== undefined && { path_style: String(spec.path_style) }),
    ...(spec.ca_file !== undefined && { ca_file: spec.ca_file }),
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
  if (url.hash !== '' || url.port !== '') throw wrong('has a part that no store has')
  if (url.protocol === 'file:') return { type: 'dir', path: folderOf(url) }
  const known = ['endpoint', 'region', 'path_style', 'ca_file']
  const options = [...url.searchParams.keys()]
  const unknown = options.find((key) => !known.includes(key))
  if (unknown !== undefined) throw wrong(`has an option "${unknown}"; there are: ${known.join(', ')}`)
  const twice = options.find((key, index) => options.indexOf(key) !== index)
  if (twice !== undefined) throw wrong(`has the option "${twice}" twice`)
  // Not decoded: what a prefix may hold is never encoded.
  const prefix = url.pathname.replaceAll(/^\/|\/$/g, '')
  const query = Object.fromEntries(url.searchParams)
  const style = query['path_style'] ?? ''
  const parsed = storeSchema.safeParse({
    type: 's3',
    bucket: url.hostname,
    ...(prefix !== '' && { prefix }),
    ...query,
    ...(['true', 'false'].includes(style) && { path_style: style === 'true' }),
  })
  if (parsed.success) return parsed.data
  const { path, message } = parsed.error.issues[0]!
  throw wrong(`is wrong at ${path.join('.')}: ${message}`)
}

function folderOf(url: URL): string {
  if (url.host !== '') throw wrong('must name a folder of this host: file:///folder')
  if (url.search !== '') throw wrong('of a folder has no options')
  try {
    const path = fileURLToPath(url).replace(/(?!^)\/$/, '')
    if (!/[\0\n]/.test(path)) return path
  } catch {
    // an encoded "/", or "%" without two digits behind it
  }
  throw wrong('does not hold a path')
}

function wrong(how: string): Fail {
  return new Fail('usage', `the URL of the store ${how}`, {
    hint: 'Write it as s3://bucket/prefix?endpoint=https://s3.example.org&region=eu-1 or file:///folder',
  })
}
