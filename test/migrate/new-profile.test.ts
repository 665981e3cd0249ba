import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { chmod, cp, mkdir, mkdtemp, readdir, readFile, rm, symlink, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { newProfile, profileFiles } from '../../scripts/migrate/new-profile.ts'
import { ROOT } from '../support/script.ts'

let checkout: string

beforeAll(async () => {
  checkout = await mkdtemp(join(tmpdir(), 'howdah-checkout-'))
  await chmod(checkout, 0o755) // the server is somebody else
  for (const part of ['scripts', 'conf', 'sql', 'test', 'package.json', '.oxfmtrc.json', '.oxlintrc.json']) {
    await cp(join(ROOT, part), join(checkout, part), { recursive: true })
  }
  await symlink(join(ROOT, 'node_modules'), join(checkout, 'node_modules'))
})

afterAll(() => rm(checkout, { recursive: true, force: true }))

/** Runs Node in the copy of the checkout. */
async function node(...args: readonly string[]): Promise<{ code: number; output: string }> {
  const env = { ...process.env, NO_COLOR: '1', VITEST: '', VITEST_POOL_ID: '', VITEST_WORKER_ID: '' }
  const child = spawn(process.execPath, [...args], { cwd: checkout, env, stdio: ['ignore', 'pipe', 'pipe'] })
  let output = ''
  for (const stream of [child.stdout, child.stderr]) {
    stream.setEncoding('utf8').on('data', (text: string) => (output += text))
  }
  const [code] = (await once(child, 'close')) as [number]
  return { code, output }
}

const files = async () => (await readdir(checkout, { recursive: true })).toSorted()

test('a new profile: --plan makes nothing; then it is formatted and passes its own test; a second time it is refused', async () => {
  const before = await files()
  const planned = await node('scripts/migrate.ts', 'new-profile', 'books', '--plan')
  expect(planned).toEqual({
    code: 0,
    output: [...profileFiles('books').keys()].map((path) => `+ ${path}\n`).join(''),
  })
  expect(await files()).toEqual(before)
  const made = await node('scripts/migrate.ts', 'new-profile', 'books')
  expect(made).toMatchObject({ code: 0, output: expect.stringContaining('made conf/books.toml\n') as string })
  const bin = (name: string) => `node_modules/${name}`
  const paths = [...profileFiles('books').keys()]
  const code = paths.filter((path) => /\.(ts|toml)$/.test(path))
  expect(await node(bin('oxfmt/bin/oxfmt'), '--check', ...code)).toMatchObject({ code: 0 })
  const own = ['run', '--config', 'test/vitest.config.ts', 'test/profiles/books.test.ts']
  const tested = await node(bin('vitest/vitest.mjs'), ...own)
  expect(tested.output).toMatch(/Tests +2 passed \(2\)/)
  expect(tested.code).toBe(0)
  await writeFile(join(checkout, 'conf/books.toml'), 'mine')
  expect(await node('scripts/migrate.ts', 'new-profile', 'books')).toMatchObject({
    code: 2,
    output: expect.stringContaining('there is a profile "books" already: conf/books.toml') as string,
  })
  expect(await readFile(join(checkout, 'conf/books.toml'), 'utf8')).toBe('mine')
})

test.each([
  '',
  'Books',
  '../books',
  'a/b',
  'a b',
  'a-b',
  'a"b',
  "a'; drop table x",
  'a\nb',
  '1a',
  'é',
  'x'.repeat(64),
  'pg_books',
  'postgres',
  'public',
  'template1',
  'reference',
])('the name %j: is refused, and nothing is made', async (name) => {
  const root = await mkdtemp(join(tmpdir(), 'howdah-checkout-'))
  try {
    await mkdir(join(root, 'test/profiles'), { recursive: true })
    await expect(newProfile(name, false, root)).rejects.toMatchObject({ code: 'usage' })
    expect(await readdir(root)).toEqual(['test'])
  } finally {
    await rm(root, { recursive: true })
  }
})

test.each([
  ['a test', 'test/profiles/books.test.ts'],
  ['a query', 'sql/books/queries/mine.sql'],
  ['a link to nowhere', 'conf/books.toml'],
])('%s of that name is there: nothing is made, and it stays', async (what, path) => {
  const root = await mkdtemp(join(tmpdir(), 'howdah-checkout-'))
  try {
    await mkdir(join(root, 'test/profiles'), { recursive: true })
    await mkdir(join(root, path, '..'), { recursive: true })
    await (what === 'a link to nowhere'
      ? symlink('/nowhere', join(root, path))
      : writeFile(join(root, path), 'mine'))
    const before = await readdir(root, { recursive: true })
    await expect(newProfile('books', false, root)).rejects.toMatchObject({ code: 'usage' })
    expect(await readdir(root, { recursive: true })).toEqual(before)
  } finally {
    await rm(root, { recursive: true })
  }
})

test('one of its files cannot be written: those before it are gone again', async () => {
  const root = await mkdtemp(join(tmpdir(), 'howdah-checkout-'))
  try {
    await mkdir(join(root, 'test/profiles'), { recursive: true })
    await writeFile(join(root, 'sql'), 'a file')
    await expect(newProfile('books', false, root)).rejects.toMatchObject({ code: 'file-unreadable' })
    expect((await readdir(root, { recursive: true })).toSorted()).toEqual(['sql', 'test', 'test/profiles'])
  } finally {
    await rm(root, { recursive: true })
  }
})

test('an installed copy: is told so', async () => {
  const root = await mkdtemp(join(tmpdir(), 'howdah-checkout-'))
  try {
    await expect(newProfile('books', false, root)).rejects.toMatchObject({ code: 'not-permitted' })
  } finally {
    await rm(root, { recursive: true })
  }
})
