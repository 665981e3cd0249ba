import { mkdir, readFile, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { expect, test } from 'vitest'
import { ROOT, runScript } from '../support/script.ts'
import { startServer } from '../support/server.ts'

test('sql/README.md: the profile it shows is provisioned, and goes up, down and up, and answers its query', async () => {
  await using server = await startServer()
  const readme = await readFile(join(ROOT, 'sql/README.md'), 'utf8')
  const blocks = (kind: string) =>
    [...readme.matchAll(new RegExp(`\`\`\`${kind}\\n([^]*?)\`\`\``, 'g'))].map(([, text]) => text!)
  const [migration, query] = blocks('sql')
  const folder = join(server.dir, 'books/migrations')
  await mkdir(folder, { recursive: true })
  await mkdir(join(server.dir, 'books/queries'))
  await writeFile(join(folder, '0001_create_books.sql'), migration!)
  await writeFile(join(server.dir, 'books/queries/by_title.sql'), query!)
  const file = join(server.dir, 'books.toml')
  await writeFile(file, `${server.header}\n${blocks('toml')[0]!.replace('sql/books/migrations', folder)}`)

  expect(await runScript(['provision', 'apply', '--yes', '-c', file])).toMatchObject({ code: 0 })
  expect(await runScript(['migrate', 'check', '-c', file])).toMatchObject({ code: 0 })
  expect(await runScript(['migrate', 'up', '--scratch', '-c', file])).toMatchObject({ code: 0 })
  expect(await server.query('books', 'select count(*)::int as count from book')).toEqual([{ count: 0 }])

  await server.query('books', `insert into book (title) values ('Dune'), ('Emma')`)
  expect(await runScript(['inspect', 'query', 'books', 'by_title', 'mm', '-c', file])).toMatchObject({
    code: 0,
    stdout: 'id  title\n2   Emma\n1 row\n',
  })
})
