import { describe, expect, test } from 'vitest'
import type { StoreSpec } from '../../scripts/host/schema.ts'
import { parseStoreUrl, storeUrl } from '../../scripts/store/url.ts'

const s3 = { type: 's3', bucket: 'b-1.x', region: 'us-east-1' } as const
const endpoint = 'https://s3.example.org:9000'

describe('URL of a store', () => {
  test.each<[StoreSpec, string]>([
    [s3, 's3://b-1.x?region=us-east-1'],
    [{ ...s3, prefix: 'prod/db' }, 's3://b-1.x/prod/db?region=us-east-1'],
    [
      { ...s3, endpoint, region: 'eu 1&x=#?' },
      `s3://b-1.x?endpoint=${endpoint}&region=eu+1%26x%3D%23%3F`.replace('%3A', ':'),
    ],
    [{ ...s3, endpoint: 'http://[::1]:80' }, 's3://b-1.x?endpoint=http://%5B::1%5D:80&region=us-east-1'],
    [
      { ...s3, path_style: false, ca_file: '/etc/a b&c' },
      's3://b-1.x?region=us-east-1&path_style=false&ca_file=/etc/a+b%26c',
    ],
    [{ ...s3, path_style: true }, 's3://b-1.x?region=us-east-1&path_style=true'],
    [{ type: 'dir', path: '/' }, 'file:///'],
    [{ type: 'dir', path: '/srv/backup' }, 'file:///srv/backup'],
    [{ type: 'dir', path: '/a b/%41/#x?y=z/Ü' }, 'file:///a%20b/%2541/%23x%3Fy=z/%C3%9C'],
    [{ type: 'dir', path: '/back\\slash' }, 'file:///back%5Cslash'],
  ])('%j: written, and read back the same', (spec, url) => {
    expect(storeUrl(spec)).toBe(url)
    expect(parseStoreUrl(url)).toEqual(spec)
  })

  test('where secrets come from: not in it', () => {
    const secrets = { access_key: { env: 'KEY_VARIABLE' }, secret_key: { file: '/run/secret-file' } }
    expect(storeUrl({ ...s3, ...secrets })).toBe('s3://b-1.x?region=us-east-1')
  })

  test.each<[string, StoreSpec]>([
    ['s3://b-1.x', s3],
    ['s3://b-1.x/', s3],
    ['s3://b-1.x/prod/db/', { ...s3, prefix: 'prod/db' }],
    ['s3://b-1.x/a/../b', { ...s3, prefix: 'b' }],
    ['file:///srv/backup/', { type: 'dir', path: '/srv/backup' }],
    ['file:///srv/../etc', { type: 'dir', path: '/etc' }],
  ])('%s: read as people write it', (url, spec) => {
    expect(parseStoreUrl(url)).toEqual(spec)
  })

  test.each([
    ['', 'is no URL of a store'],
    ['/srv/backup', 'is no URL of a store'],
    ['https://s3.example.org/bucket', 'is no URL of a store'],
    ['s3:bucket', 'is wrong at bucket'],
    ['s3://', 'is wrong at bucket'],
    ['s3://B_1', 'is wrong at bucket'],
    ['s3://key:secret-3f9a@bucket', 'must not hold credentials'],
    ['s3://key@bucket', 'must not hold credentials'],
    ['s3://bucket:9000', 'has a part that no store has'],
    ['s3://bucket#x', 'has a part that no store has'],
    ['s3://bucket?secret_key=secret-3f9a', 'has an option "secret_key"'],
    ['s3://bucket?type=dir', 'has an option "type"'],
    ['s3://bucket?__proto__=x', 'has an option "__proto__"'],
    ['s3://bucket?region=a&region=b', 'has the option "region" twice'],
    ['s3://bucket?region=', 'is wrong at region'],
    ['s3://bucket?path_style=yes', 'is wrong at path_style'],
    ['s3://bucket?path_style=constructor', 'is wrong at path_style'],
    ['s3://bucket?endpoint=ftp://x', 'is wrong at endpoint'],
    ['s3://bucket?endpoint=https://key:secret-3f9a@x', 'is wrong at endpoint'],
    ['s3://bucket?ca_file=relative', 'is wrong at ca_file'],
    ['s3://bucket/%zz', 'is wrong at prefix'],
    ['s3://bucket/a%2f..%2fb', 'is wrong at prefix'],
    ['s3://bucket//a', 'is wrong at prefix'],
    ['s3://bucket/.hidden', 'is wrong at prefix'],
    ['file://server/share', 'must name a folder of this host'],
    ['file:///a%2fb', 'does not hold a path'],
    ['file:///a%00b', 'does not hold a path'],
    ['file:///a%0Ab', 'does not hold a path'],
    ['file:///a%zz', 'does not hold a path'],
    ['file:///a?region=x', 'has no options'],
  ])('%j: refused, and nothing secret is in what is said', (url, reason) => {
    const thrown = (() => {
      try {
        return parseStoreUrl(url)
      } catch (error) {
        return error as Error
      }
    })()
    expect(thrown).toMatchObject({ code: 'usage', message: expect.stringContaining(reason) as string })
    expect(JSON.stringify(thrown) + (thrown as Error).message).not.toContain('secret-3f9a')
  })
})
