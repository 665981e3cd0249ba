import type { Client } from 'pg'
import type { Cluster } from '../../cluster/cluster.ts'
import { messageOf } from '../../core/fail.ts'
import { type Finding, spring, type Trap } from './finding.ts'

/** What is true of an upgrade as a whole. */
export interface Way {
  readonly from: number
  readonly to: number
  /** By dumps, which do not mind some of what pg_upgrade refuses. */
  readonly isDump: boolean
}

/** What belongs to the whole cluster, and is in the way of an upgrade or does not come along. */
export async function clusterFindings(client: Client, way: Way): Promise<Finding[]> {
  return spring(client, '', [...databaseTraps(way), ...ROLE_TRAPS, ...replicationTraps(way), ...storage(way)])
}

function databaseTraps({ isDump }: Way): Trap[] {
  const refusal = isDump ? 'a dump leaves it out' : 'pg_upgrade refuses it'
  return [
    {
      severity: 'error',
      code: 'closed-database',
      text: `select format('%I', datname) from pg_database
        where not datallowconn and datname <> 'template0' and datconnlimit <> -2 order by 1`,
      message: (names) => `databases that nobody can connect to: ${names}: ${refusal}`,
      hint: 'Open it until the upgrade is done: alter database NAME allow_connections true; or drop it.',
    },
    {
      severity: 'error',
      code: 'open-template0',
      text: `select 'template0' from pg_database where datname = 'template0' and datallowconn`,
      message: () => 'template0 lets people connect: pg_upgrade refuses that',
      hint: 'alter database template0 allow_connections false',
    },
    {
      // What DROP DATABASE leaves when it is interrupted (src/backend/commands/dbcommands.c).
      severity: 'error',
      code: 'invalid-database',
      text: `select format('%I', datname) from pg_database where datconnlimit = -2 order by 1`,
      message: (names) => `databases that were dropped halfway: ${names}: nothing reads them any more`,
      hint: 'Finish it: drop database NAME',
    },
    {
      severity: 'error',
      code: 'missing-database',
      text: `select name from unnest(array['postgres', 'template1']) name where not exists (
        select from pg_database where datname = name)`,
      message: (names) => `there is no database ${names}: an upgrade goes by way of it`,
      hint: 'create database NAME template template0',
    },
    {
      severity: 'error',
      code: 'prepared-transaction',
      text: `select format('%s of %I in %I', quote_literal(gid), owner, database) from pg_prepared_xacts order by prepared`,
      message: (names) => `prepared transactions: ${names}: no method brings them over`,
      hint: `End each in its database, as its owner: commit prepared 'GID', or rollback prepared 'GID'.`,
    },
  ]
}

const ROLE_TRAPS: readonly Trap[] = [
  {
    severity: 'warning',
    code: 'md5-password',
    text: `select format('%I', rolname) from pg_authid where rolpassword like 'md5%' order by 1`,
    message: (names) =>
      `roles whose password is kept as md5: ${names}: it comes over, and its days are numbered`,
    hint: 'Set each anew with password_encryption = scram-sha-256, as soon as every client knows SCRAM: \\password NAME',
  },
  {
    severity: 'error',
    code: 'reserved-role',
    text: `select format('%I', rolname) from pg_roles where rolname ~ '^pg_' and oid >= 16384 order by 1`,
    message: (names) => `roles with a name that is PostgreSQL's own: ${names}: no server makes such a one`,
    hint: 'alter role NAME rename to OTHER',
  },
  {
    severity: 'error',
    code: 'install-user',
    text: `select format('%I', rolname) from pg_roles where oid = 10 and not (rolsuper and rolcanlogin)`,
    message: (names) =>
      `the role that initdb made, ${names}, is no superuser that can log in, and everything is done as it`,
    hint: 'alter role NAME superuser login',
  },
]

// Logical slots and the states of subscriptions go over from 17 on (pg_upgrade's manual, "Prepare for ... upgrades").
function replicationTraps({ from, isDump }: Way): Trap[] {
  const isCarried = from >= 17 && !isDump
  return [
    {
      severity: 'warning',
      code: 'replication-slot',
      text: `select format('%I (%s)', slot_name, slot_type) from pg_replication_slots
        where not temporary ${isCarried ? `and slot_type = 'physical'` : ''} order by 1`,
      message: (names) => `replication slots do not come over: ${names}`,
      hint: `Who reads from one begins anew: a standby is made again, a subscriber gets its slot again. Howdah makes its own one again by itself.`,
    },
    {
      severity: 'warning',
      code: 'standby',
      text: `select format('%s from %s', application_name, coalesce(client_addr::text, 'this host'))
        from pg_stat_replication where application_name not in ('howdah', 'pg_receivewal', 'pg_basebackup') order by 1`,
      message: (names) =>
        `standbys or subscribers are connected: ${names}: they cannot follow into the new major`,
      hint: 'Make each standby again from the new cluster; point subscribers to it once it serves.',
    },
    {
      severity: 'warning',
      code: 'subscription',
      text: `select format('%I in %I', subname, datname) from pg_subscription s join pg_database d on d.oid = s.subdbid order by 1`,
      message: (names) =>
        isCarried
          ? `subscriptions: ${names}: what they have not received yet is fetched by the new cluster`
          : `subscriptions come over without what they know of their tables: ${names}`,
      hint: isCarried
        ? 'Let them catch up before: select * from pg_stat_subscription'
        : 'Disable each before. Afterwards: alter subscription NAME enable; alter subscription NAME refresh publication with (copy_data = false)',
    },
  ]
}

function storage({ from, to }: Way): Trap[] {
  return [
    {
      severity: 'note',
      code: 'no-checksums',
      text: `select 'off' where current_setting('data_checksums') = 'off'`,
      message: () =>
        `data checksums are off, and stay so${to >= 18 ? `, though ${to} has them on by itself` : ''}`,
      hint: 'To have them: stop the cluster, pg_checksums --enable -D DIR, start it. It reads and writes everything once.',
    },
    ...(from < 15
      ? [
          {
            severity: 'note' as const,
            code: 'public-schema',
            text: `select '15'`,
            message: () =>
              'since 15 only the owner of a new database makes things in its schema public; those that come over stay as they are',
            hint: 'To be as strict: revoke create on schema public from public',
          },
        ]
      : []),
  ]
}

/** Everything is done as the role that initdb made, which may be another one than the host file's superuser. */
export async function installUserFindings(old: Cluster, installUser: string): Promise<Finding[]> {
  if (installUser === old.superuser) return []
  try {
    const client = await old.connect('postgres', { user: installUser })
    await client.end()
    return []
  } catch (error) {
    return [
      {
        severity: 'error',
        code: 'install-user',
        database: '',
        message: `nobody can log in as "${installUser}", the role that initdb made: ${messageOf(error)}`,
        hint: `Let the OS user ${old.osUser} in as it: local all ${installUser} peer map=..., with a line in pg_ident.conf`,
      },
    ]
  }
}
