import { expect, test } from 'vitest'
import { moveTablespaces } from '../../scripts/backup/rehearsal.ts'

test.each([
  [
    "CREATE TABLESPACE fast OWNER crew LOCATION '/srv/fast';",
    "CREATE TABLESPACE fast OWNER crew LOCATION '/scratch/1';",
  ],
  [
    `CREATE TABLESPACE "a LOCATION '/b';" OWNER crew LOCATION '/srv/it''s';`,
    `CREATE TABLESPACE "a LOCATION '/b';" OWNER crew LOCATION '/scratch/1';`,
  ],
  [
    String.raw`CREATE TABLESPACE "täg" OWNER "o ""x" LOCATION E'/srv/\\a';`,
    `CREATE TABLESPACE "täg" OWNER "o ""x" LOCATION '/scratch/1';`,
  ],
])('globals for a scratch cluster: %s: never in the folder of the live one', (line, moved) => {
  expect(moveTablespaces(`${line}\n`, 'postgres', '/scratch')).toEqual({
    text: `${moved}\n`,
    folders: ['/scratch/1'],
  })
})

test.each([
  ['postgres', 'CREATE ROLE postgres;'],
  ['Odd "x', 'CREATE ROLE "Odd ""x";'],
])(
  'globals for a scratch cluster: the role %s, which initdb made, is not made again, all else is',
  (keeper, line) => {
    const rest = 'CREATE ROLE postgres2;\nALTER ROLE postgres WITH SUPERUSER;\n'
    expect(moveTablespaces(`${line}\n${rest}`, keeper, '/scratch')).toEqual({ text: rest, folders: [] })
  },
)
