import { chmod, lstat, mkdir, rm, writeFile } from 'node:fs/promises'
import { dirname, join } from 'node:path'
import { Fail } from '../core/fail.ts'
import { exists, reasonOf } from '../core/file.ts'

/** The checkout that this program runs from. */
const CHECKOUT = join(import.meta.dirname, '../..')

// A name of a role, a database, a file and a part of a path, without any quotes.
const NAME = /^[a-z][a-z0-9_]{0,40}$/

// What has a meaning already, as a role or as a database (src/backend/catalog/catalog.c, IsReservedName).
const TAKEN = /^(pg_.*|postgres|public|none|root|template[01]|reference)$/

/** Files of a profile, by their path in the checkout. Pure. */
export function profileFiles(name: string): ReadonlyMap<string, string> {
  const files = {
    [`conf/${name}.toml`]: HOST,
    [`sql/${name}/migrations/0001_create_note.sql`]: MIGRATION,
    [`sql/${name}/queries/search.sql`]: QUERY,
    [`test/profiles/${name}.test.ts`]: TEST,
  }
  return new Map(Object.entries(files).map(([path, text]) => [path, text.replaceAll('NAME', name)]))
}

/**
 * Makes the files of a new profile in the checkout: a host file, a migration, a query, and a test of all that.
 * Either all of them are made, or none; nothing that is there is written over.
 * @returns their paths
 * @throws {Fail} `usage` when the name is none, or is taken; `file-unreadable`; `not-permitted` outside of a checkout
 */
export async function newProfile(name: string, planOnly: boolean, root = CHECKOUT): Promise<string[]> {
  if (!NAME.test(name) || TAKEN.test(name)) {
    throw new Fail(
      'usage',
      `"${name}" is no name of a profile: a role and a database are to be called that`,
      {
        hint: 'Lower case letters, digits and "_", such as: howdah migrate new-profile books',
      },
    )
  }
  if (!(await exists(join(root, 'test/profiles')))) {
    throw new Fail('not-permitted', `"${root}" is an installed copy, without tests`, {
      hint: 'Run it in a checkout.',
    })
  }
  const files = profileFiles(name)
  for (const path of [...files.keys(), `sql/${name}`]) {
    if (await isThere(join(root, path))) {
      throw new Fail('usage', `there is a profile "${name}" already: ${path}`, {
        hint: 'Give it another name.',
      })
    }
  }
  if (!planOnly) await writeAll(root, files)
  return [...files.keys()]
}

async function writeAll(root: string, files: ReadonlyMap<string, string>): Promise<void> {
  const made: string[] = []
  try {
    for (const [path, text] of files) {
      const folder = await mkdir(dirname(join(root, path)), { recursive: true })
      if (folder !== undefined) made.push(folder)
      // Never over a file that somebody makes at the same time.
      await writeFile(join(root, path), text, { flag: 'wx' })
      made.push(join(root, path))
      await chmod(join(root, path), 0o644)
    }
  } catch (cause) {
    for (const path of made.toReversed()) await rm(path, { recursive: true, force: true })
    throw new Fail(
      'file-unreadable',
      `cannot write the files of a profile in "${root}": ${reasonOf(cause)}`,
      {
        cause,
      },
    )
  }
}

/** A link that leads nowhere is something, too. */
async function isThere(path: string): Promise<boolean> {
  return lstat(path).then(
    () => true,
    () => false,
  )
}

const HOST = `#:schema ./host.schema.json
# NAME: what it is for, in one line. conf/reference.toml has all that can be said here.

format = 1

[host]
name = "NAME"

[postgres]
kind = "debian"
major = 15

[roles.NAME]
login = true

[databases.NAME]
owner = "NAME"
[databases.NAME.migrations]
dir = "sql/NAME/migrations"
role = "NAME"

[store.local]
type = "dir"
path = "/var/backups/howdah"

[backup.NAME]
kind = "dump"
databases = ["NAME"]
store = "local"
schedule = "0 2 * * *"
keep = { within = "7d" }
`

const MIGRATION = `-- note: an example; write your own tables here before this is applied anywhere
-- migrate:up
create table note (
  id bigint generated always as identity primary key,
  written_at timestamptz not null default now(),
  text text not null
);

-- migrate:down
drop table note;
`

const QUERY = `-- summary: notes with a word in them, the newest first
-- parameter: word text
select id, written_at, text from note where strpos(text, $1) > 0 order by id desc
`

const TEST = `import { afterAll, beforeAll, expect, test } from 'vitest'
import { startServer, type TestServer } from '../support/server.ts'
import { openProfile, type Profile } from './profile.ts'

let server: TestServer
let profile: Profile

beforeAll(async () => {
  server = await startServer()
  profile = await openProfile(server, 'NAME')
})

afterAll(() => server[Symbol.asyncDispose]())

test('provisioned from nothing: nothing is pending, and every version goes up, down and up', async () => {
  expect(await profile.run('provision', 'apply', '--yes')).toMatchObject({ code: 0 })
  expect(await profile.run('provision', 'plan', '--check')).toMatchObject({ code: 0 })
  expect(await profile.run('migrate', 'check')).toMatchObject({ code: 0 })
  expect(await profile.run('migrate', 'up', '--scratch')).toMatchObject({ code: 0 })
})

test('search: finds what has the word in it', async () => {
  await server.query('NAME', \`insert into note (text) values ('a red book'), ('a map')\`)
  const found = await profile.run('inspect', 'query', 'NAME', 'search', 'red')
  expect(found).toMatchObject({ code: 0, stdout: expect.stringContaining('a red book') as string })
  expect(found.stdout).not.toContain('a map')
})
`
