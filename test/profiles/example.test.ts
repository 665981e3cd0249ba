import { mkdir, readFile, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { expect, test } from 'vitest'
import { ROOT, runScript } from '../support/script.ts'
import { startServer } from '../support/server.ts'

test('sql/README.md: the profile it shows is provisioned, and goes up, down and up', async () => {
  await using server = await startServer()
  const readme = await readFile(join(ROOT, 'sql/README.md'), 'utf8')
  const block = (kind: string) => new RegExp(`\`\`\`${kind}\\n([^]*?)\`\`\``).exec(readme)![1]!
  const folder = join(server.dir, 'books')
  await mkdir(folder)
  await writeFile(join(folder, '0001_create_books.sql'), block('sql'))
  const file = join(server.dir, 'books.toml')
  await writeFile(file, `${server.header}\n${block('toml').replace('sql/books/migrations', folder)}`)

  expect(await runScript(['provision', 'apply', '--yes', '-c', file])).toMatchObject({ code: 0 })
  expect(await runScript(['migrate', 'up', '-c', file])).toMatchObject({ code: 0 })
  expect(await runScript(['migrate', 'up', '--scratch', '-c', file])).toMatchObject({ code: 0 })
  expect(await server.query('books', 'select count(*)::int as count from book')).toEqual([{ count: 0 }])
})
