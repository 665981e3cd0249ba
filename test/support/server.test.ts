import { expect, test } from 'vitest'
import { startServer } from './server.ts'

test('server: it answers as the superuser, by peer', async () => {
  await using server = await startServer()
  expect(await server.query('postgres', 'select current_user::text as who')).toEqual([{ who: 'postgres' }])
})
