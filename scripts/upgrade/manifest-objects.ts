/**
 * Queries of what belongs to one database; each gives kind, name and value as text. What an extension
 * made comes with the extension, and its next version may make it differently: that is left out.
 * @param major of the server that is asked
 */
export function objectQueries(major: number): string[] {
  return [
    RELATIONS,
    columns(major),
    ...DEFINED,
    ...OWNED.map(owned),
    ...PLAIN.map(plain),
    ...MEMBERS.map(members),
    MAPPINGS,
    ...GRANTED.map(grants),
    DEFAULT_GRANTS,
    COLUMN_GRANTS,
    ...SYSTEM_GRANTED.map(systemGrants),
    COMMENTS,
    LABELS,
    publications(major),
  ]
}

/** Of users: what initdb made has lower numbers, and what an extension made hangs on it. */
function isOfUser(catalog: string, oid: string): string {
  return `(${oid} >= 16384 and not exists (select from pg_depend e where e.classid = '${catalog}'::regclass
    and e.objid = ${oid} and e.deptype = 'e'))`
}

const GRANTEE = `case a.grantee when 0 then 'public' else quote_ident(pg_get_userbyid(a.grantee)) end`

// Two bytes of a digest: options of a server or a mapping may hold a password.
const SHORT = (text: string) => `left(encode(sha256(convert_to(${text}, 'UTF8')), 'hex'), 4)`

const RELATIONS = `
  select 'relation', c.oid::regclass::text, format(
    'kind %s, persistence %s, owner %I, options %s, tablespace %s, row security %s %s, identity %s, access %s, of %s, bound %s, key %s, parents %s, toast options %s',
    c.relkind, c.relpersistence, pg_get_userbyid(c.relowner), array_to_string(c.reloptions, ' '), t.spcname,
    c.relrowsecurity, c.relforcerowsecurity, c.relreplident, m.amname, nullif(c.reloftype, 0)::regtype,
    pg_get_expr(c.relpartbound, c.oid), pg_get_partkeydef(c.oid),
    (select string_agg(i.inhparent::regclass::text, ' ' order by i.inhseqno) from pg_inherits i where i.inhrelid = c.oid),
    (select array_to_string(o.reloptions, ' ') from pg_class o where o.oid = c.reltoastrelid))
  from pg_class c left join pg_tablespace t on t.oid = c.reltablespace left join pg_am m on m.oid = c.relam
  where c.relkind in ('r', 'p', 'v', 'm', 'S', 'f', 'c') and c.relpersistence <> 't' and ${isOfUser('pg_class', 'c.oid')}`

/**
 * Before 17 a column without a target of its own said -1; before 14 none had a compression of its own. The server's
 * own mark pg_attver, among the options since minor releases of 2026, is another one in each table that is made.
 */
function columns(major: number): string {
  return `
    select 'column', format('%s.%I', c.oid::regclass, a.attname), format(
      '%s, collation %s, not null %s, default %s, identity %s, generated %s, storage %s, compression %s, target %s, options %s %s',
      format_type(a.atttypid, a.atttypmod), nullif(a.attcollation, 0)::regcollation, a.attnotnull,
      pg_get_expr(d.adbin, d.adrelid), a.attidentity, a.attgenerated, a.attstorage,
      ${major >= 14 ? 'a.attcompression' : `''`}, nullif(a.attstattarget, -1),
      (select string_agg(o, ' ') from unnest(a.attoptions) o where o not like 'pg_attver=%'), array_to_string(a.attfdwoptions, ' '))
    from pg_attribute a join pg_class c on c.oid = a.attrelid
    left join pg_attrdef d on d.adrelid = a.attrelid and d.adnum = a.attnum
    where a.attnum > 0 and not a.attisdropped and c.relkind in ('r', 'p', 'v', 'm', 'f', 'c')
      and c.relpersistence <> 't' and ${isOfUser('pg_class', 'c.oid')}`
}

// It stood with the locales of libc before 15, and in a column of its own name before 17.
const ICU_LOCALES = `
  select 'ICU locale', format('collation %I.%I', n.nspname, c.collname),
    coalesce(to_jsonb(c)->>'colllocale', to_jsonb(c)->>'colliculocale', to_jsonb(c)->>'collcollate')
  from pg_collation c join pg_namespace n on n.oid = c.collnamespace
  where c.collprovider = 'i' and ${isOfUser('pg_collation', 'c.oid')}`

// A constraint NOT NULL is a row of pg_constraint since 18; that a column is so stands with the column.
const DEFINED = [
  `select 'view', c.oid::regclass::text, pg_get_viewdef(c.oid) from pg_class c
    where c.relkind in ('v', 'm') and c.relpersistence <> 't' and ${isOfUser('pg_class', 'c.oid')}`,
  `select 'populated', c.oid::regclass::text, c.relispopulated::text from pg_class c
    where c.relkind = 'm' and ${isOfUser('pg_class', 'c.oid')}`,
  `select 'index', i.indexrelid::regclass::text, format('%s, valid %s, clustered %s, identity %s, tablespace %s',
      pg_get_indexdef(i.indexrelid), i.indisvalid, i.indisclustered, i.indisreplident, t.spcname)
    from pg_index i join pg_class c on c.oid = i.indexrelid left join pg_tablespace t on t.oid = c.reltablespace
    join pg_class r on r.oid = i.indrelid
    where r.relkind in ('r', 'p', 'm') and c.relpersistence <> 't' and ${isOfUser('pg_class', 'r.oid')}`,
  `select 'constraint', format('%I on %s', c.conname, coalesce(nullif(c.conrelid, 0)::regclass::text, c.contypid::regtype::text)),
      format('%s, valid %s', pg_get_constraintdef(c.oid), c.convalidated)
    from pg_constraint c where c.contype <> 'n' and ${isOfUser('pg_constraint', 'c.oid')}
      and not exists (select from pg_depend e where e.deptype = 'e' and (e.classid, e.objid) in (
        ('pg_class'::regclass, c.conrelid), ('pg_type'::regclass, c.contypid)))`,
  `select 'sequence', s.seqrelid::regclass::text, format('%s from %s by %s, %s to %s, cache %s, cycle %s, of %s',
      s.seqtypid::regtype, s.seqstart, s.seqincrement, s.seqmin, s.seqmax, s.seqcache, s.seqcycle,
      (select format('%s.%I', d.refobjid::regclass, a.attname) from pg_depend d
        join pg_attribute a on a.attrelid = d.refobjid and a.attnum = d.refobjsubid
        where d.classid = 'pg_class'::regclass and d.objid = s.seqrelid and d.refclassid = 'pg_class'::regclass
          and d.deptype in ('a', 'i')))
    from pg_sequence s where ${isOfUser('pg_class', 's.seqrelid')}`,
  `select 'trigger', format('%I on %s', t.tgname, t.tgrelid::regclass),
      format('%s, enabled %s', pg_get_triggerdef(t.oid), t.tgenabled)
    from pg_trigger t where not t.tgisinternal and ${isOfUser('pg_trigger', 't.oid')}`,
  `select 'rule', format('%I on %s', r.rulename, r.ev_class::regclass),
      format('%s, enabled %s', pg_get_ruledef(r.oid), r.ev_enabled)
    from pg_rewrite r where r.rulename <> '_RETURN' and ${isOfUser('pg_rewrite', 'r.oid')}`,
  `select 'policy', format('%I on %s', p.polname, p.polrelid::regclass), format('%s permissive %s to %s using %s check %s',
      p.polcmd, p.polpermissive, (select string_agg(case g when 0 then 'public' else quote_ident(pg_get_userbyid(g)) end, ' ' order by 1)
        from unnest(p.polroles) g), pg_get_expr(p.polqual, p.polrelid), pg_get_expr(p.polwithcheck, p.polrelid))
    from pg_policy p`,
  `select 'function', p.oid::regprocedure::text, format('owner %I: %s', pg_get_userbyid(p.proowner),
      case when p.prokind <> 'a' then pg_get_functiondef(p.oid)
      else (select format('aggregate of %s, state %s, final %s, combine %s, initial %s, sort %s', g.aggtransfn, g.aggtranstype::regtype,
        g.aggfinalfn, g.aggcombinefn, g.agginitval, g.aggsortop::regoperator) from pg_aggregate g where g.aggfnoid = p.oid) end)
    from pg_proc p where ${isOfUser('pg_proc', 'p.oid')}
      and not exists (select from pg_depend i where i.classid = 'pg_proc'::regclass and i.objid = p.oid and i.deptype = 'i')`,
  `select 'type', t.oid::regtype::text, format('%s owner %I, base %s, default %s, not null %s, collation %s, labels %s, subtype %s',
      t.typtype, pg_get_userbyid(t.typowner), nullif(format_type(nullif(t.typbasetype, 0), t.typtypmod), '-'), t.typdefault, t.typnotnull,
      nullif(t.typcollation, 0)::regcollation,
      (select string_agg(quote_literal(e.enumlabel), ' ' order by e.enumsortorder) from pg_enum e where e.enumtypid = t.oid),
      (select r.rngsubtype::regtype from pg_range r where r.rngtypid = t.oid))
    from pg_type t where t.typtype in ('e', 'd', 'r', 'b') and t.typelem = 0 and ${isOfUser('pg_type', 't.oid')}`,
  `select 'extension', format('%I', e.extname), format('schema %I, owner %I', n.nspname, pg_get_userbyid(e.extowner))
    from pg_extension e join pg_namespace n on n.oid = e.extnamespace`,
  `select 'event trigger', format('%I', evtname), format('on %s do %s when %s, enabled %s, owner %I', evtevent, evtfoid::regprocedure,
      array_to_string(evttags, ' '), evtenabled, pg_get_userbyid(evtowner))
    from pg_event_trigger t where ${isOfUser('pg_event_trigger', 't.oid')}`,
  `select 'statistics', format('%I.%I', n.nspname, s.stxname), format('%s, target %s, owner %I', pg_get_statisticsobjdef(s.oid),
      nullif(s.stxstattarget, -1), pg_get_userbyid(s.stxowner))
    from pg_statistic_ext s join pg_namespace n on n.oid = s.stxnamespace`,
  // Locales of ICU are compared by what they mean: see ICU_LOCALES.
  `select 'collation', format('%I.%I', n.nspname, c.collname), format('provider %s, %s, deterministic %s, rules %s, owner %I',
      c.collprovider, case c.collprovider when 'c' then format('collate %s, ctype %s', c.collcollate, c.collctype)
        when 'b' then to_jsonb(c)->>'colllocale' end, c.collisdeterministic, to_jsonb(c)->>'collicurules', pg_get_userbyid(c.collowner))
    from pg_collation c join pg_namespace n on n.oid = c.collnamespace where ${isOfUser('pg_collation', 'c.oid')}`,
  ICU_LOCALES,
  `select 'server', format('%I', s.srvname), format('%I, type %s, version %s, owner %I, options %s', w.fdwname, s.srvtype, s.srvversion,
      pg_get_userbyid(s.srvowner), ${SHORT(`array_to_string(s.srvoptions, ' ')`)})
    from pg_foreign_server s join pg_foreign_data_wrapper w on w.oid = s.srvfdw`,
  `select 'user mapping', format('%I at %I', coalesce(u.usename, 'public'), u.srvname),
      ${SHORT(`array_to_string(u.umoptions, ' ')`)} from pg_user_mappings u`,
  `select 'foreign table', f.ftrelid::regclass::text, format('%I %s', s.srvname, array_to_string(f.ftoptions, ' '))
    from pg_foreign_table f join pg_foreign_server s on s.oid = f.ftserver`,
  `select 'subscription', format('%I', s.subname), format('owner %I, enabled %s, slot %s, of %s, from %s', pg_get_userbyid(s.subowner),
      s.subenabled, s.subslotname, array_to_string(s.subpublications, ' '), ${SHORT('s.subconninfo')})
    from pg_subscription s join pg_database d on d.oid = s.subdbid where d.datname = current_database()`,
  `select 'large object owner', m.oid::text, quote_ident(pg_get_userbyid(m.lomowner)) from pg_largeobject_metadata m`,
]

/** Kinds of which the name says nearly all, the column of the owner, and what else there is to say. */
const OWNED = [
  ['pg_conversion', 'conowner', `format('function %s', c.conproc::regprocedure)`],
  ['pg_foreign_data_wrapper', 'fdwowner', `''`],
  ['pg_language', 'lanowner', `''`],
  [
    'pg_opclass',
    'opcowner',
    `format('of %s, for %s, stores %s, default %s', (select o.identity from pg_identify_object('pg_opfamily'::regclass, c.opcfamily, 0) o),
      c.opcintype::regtype, nullif(c.opckeytype, 0)::regtype, c.opcdefault)`,
  ],
  [
    'pg_operator',
    'oprowner',
    `format('function %s, commutator %s, negator %s, restrict %s, join %s, merges %s, hashes %s', c.oprcode::regprocedure,
    nullif(c.oprcom, 0)::regoperator, nullif(c.oprnegate, 0)::regoperator, c.oprrest, c.oprjoin, c.oprcanmerge, c.oprcanhash)`,
  ],
  ['pg_opfamily', 'opfowner', `''`],
  [
    'pg_ts_config',
    'cfgowner',
    `(select format('parser %s', o.identity) from pg_identify_object('pg_ts_parser'::regclass, c.cfgparser, 0) o)`,
  ],
  [
    'pg_ts_dict',
    'dictowner',
    `(select format('template %s, %s', o.identity, c.dictinitoption)
    from pg_identify_object('pg_ts_template'::regclass, c.dicttemplate, 0) o)`,
  ],
] as const

function owned([catalog, owner, more]: (typeof OWNED)[number]): string {
  return `select o.type, o.identity, format('owner %I: %s', pg_get_userbyid(c.${owner}), ${more})
    from ${catalog} c, lateral pg_identify_object('${catalog}'::regclass, c.oid, 0) o where ${isOfUser(catalog, 'c.oid')}`
}

/** Kinds without an owner. */
const PLAIN = ['pg_am', 'pg_cast', 'pg_transform', 'pg_ts_parser', 'pg_ts_template'] as const

function plain(catalog: (typeof PLAIN)[number]): string {
  return `select o.type, o.identity, '' from ${catalog} c, lateral pg_identify_object('${catalog}'::regclass, c.oid, 0) o
    where ${isOfUser(catalog, 'c.oid')}`
}

/**
 * What is in operator families, those of initdb's included, which no dump brings over. A member hangs on no extension
 * itself: it belongs to one when its family does or, in a family of initdb's, its operator or its function.
 */
const MEMBERS = [
  [
    'pg_amop',
    'amopfamily',
    'pg_operator',
    'c.amopopr',
    `format('%s, sorts by %s', c.amopopr::regoperator,
    (select s.identity from pg_identify_object('pg_opfamily'::regclass, nullif(c.amopsortfamily, 0), 0) s))`,
  ],
  ['pg_amproc', 'amprocfamily', 'pg_proc', 'c.amproc', `c.amproc::regprocedure::text`],
] as const

function members([catalog, family, usedIn, used, value]: (typeof MEMBERS)[number]): string {
  return `select o.type, o.identity, ${value} from ${catalog} c, lateral pg_identify_object('${catalog}'::regclass, c.oid, 0) o
    where ${isOfUser(catalog, 'c.oid')} and not exists (select from pg_depend e where e.deptype = 'e'
      and ((e.classid, e.objid) = ('pg_opfamily'::regclass, c.${family})
        or c.${family} < 16384 and (e.classid, e.objid) = ('${usedIn}'::regclass, ${used})))`
}

/** Which dictionaries a text search configuration asks, in which order, for each kind of word. */
const MAPPINGS = `
  select 'text search mapping', format('%s in %s', t.alias, o.identity), string_agg(d.identity, ', ' order by m.mapseqno)
  from pg_ts_config c join pg_ts_config_map m on m.mapcfg = c.oid
  join lateral ts_token_type(c.cfgparser) t on t.tokid = m.maptokentype,
    lateral pg_identify_object('pg_ts_config'::regclass, c.oid, 0) o, lateral pg_identify_object('pg_ts_dict'::regclass, m.mapdict, 0) d
  where ${isOfUser('pg_ts_config', 'c.oid')} group by t.alias, o.identity`

/** Catalog, columns of the owner and the grants, the letter of acldefault(), and what else is counted in. */
const GRANTED = [
  [
    'pg_class',
    'relowner',
    'relacl',
    `case c.relkind when 'S' then 's' else 'r' end::"char"`,
    `c.relkind in ('r','p','v','m','S','f') and c.relpersistence <> 't'`,
  ],
  ['pg_proc', 'proowner', 'proacl', `'f'`, 'true'],
  ['pg_type', 'typowner', 'typacl', `'T'`, `c.typtype in ('e', 'd', 'r', 'b') and c.typelem = 0`],
  ['pg_namespace', 'nspowner', 'nspacl', `'n'`, `c.nspname !~ '^pg_(temp|toast)'`],
  ['pg_language', 'lanowner', 'lanacl', `'l'`, 'true'],
  ['pg_foreign_data_wrapper', 'fdwowner', 'fdwacl', `'F'`, 'true'],
  ['pg_foreign_server', 'srvowner', 'srvacl', `'S'`, 'true'],
  ['pg_largeobject_metadata', 'lomowner', 'lomacl', `'L'`, 'true'],
] as const

// The schema public is initdb's, and everybody's.
function grants([catalog, owner, acl, letter, also]: (typeof GRANTED)[number]): string {
  const isPublic = catalog === 'pg_namespace' ? `or c.nspname = 'public'` : ''
  const known = catalog === 'pg_largeobject_metadata' ? 'pg_largeobject' : catalog
  return `select 'grant', format('%s %s: %s to %s', o.type, o.identity, a.privilege_type, ${GRANTEE}), format('grantable %s', bool_or(a.is_grantable))
    from ${catalog} c, lateral pg_identify_object('${known}'::regclass, c.oid, 0) o,
      lateral aclexplode(coalesce(c.${acl}, acldefault(${letter}, c.${owner}))) a
    where ${also} and (${isOfUser(known, 'c.oid')} ${isPublic}) group by o.type, o.identity, a.privilege_type, a.grantee
    ${
      catalog === 'pg_namespace'
        ? `union all select 'schema', format('%I', c.nspname), quote_ident(pg_get_userbyid(c.nspowner)) from pg_namespace c
      where ${also} and (${isOfUser(known, 'c.oid')} ${isPublic})`
        : ''
    }`
}

const SYSTEM_GRANTED = [
  ['pg_proc', 'proowner', 'proacl'],
  ['pg_class', 'relowner', 'relacl'],
] as const

// What was granted on objects of initdb's own on top of what initdb grants, which differs from major to major.
function systemGrants([catalog, owner, acl]: (typeof SYSTEM_GRANTED)[number]): string {
  return `select 'grant', format('%s %s: %s to %s', o.type, o.identity, a.privilege_type, ${GRANTEE}), format('grantable %s', bool_or(a.is_grantable))
    from ${catalog} c, lateral pg_identify_object('${catalog}'::regclass, c.oid, 0) o, lateral aclexplode(c.${acl}) a
    where c.oid < 16384 and a.grantee not in (0, c.${owner}) and not exists (
      select from pg_init_privs i, aclexplode(i.initprivs) x
      where i.classoid = '${catalog}'::regclass and i.objoid = c.oid and i.objsubid = 0
        and x.grantee = a.grantee and x.privilege_type = a.privilege_type)
    group by o.type, o.identity, a.privilege_type, a.grantee`
}

const COLUMN_GRANTS = `
  select 'grant', format('column %s.%I: %s to %s', t.attrelid::regclass, t.attname, a.privilege_type, ${GRANTEE}), format('grantable %s', bool_or(a.is_grantable))
  from pg_attribute t, lateral aclexplode(t.attacl) a where not t.attisdropped and ${isOfUser('pg_class', 't.attrelid')}
  group by t.attrelid, t.attname, a.privilege_type, a.grantee`

const DEFAULT_GRANTS = `
  select 'default grant', format('of %I in %s on %s: %s to %s', pg_get_userbyid(d.defaclrole),
    coalesce(quote_ident(n.nspname), 'every schema'), d.defaclobjtype, a.privilege_type, ${GRANTEE}), format('grantable %s', a.is_grantable)
  from pg_default_acl d left join pg_namespace n on n.oid = d.defaclnamespace, lateral aclexplode(d.defaclacl) a`

const COMMENTS = `
  select 'comment', format('%s %s', o.type, o.identity), d.description
  from pg_description d, lateral pg_identify_object(d.classoid, d.objoid, d.objsubid) o
  where ${isOfUser('pg_class', 'd.objoid').replace(`e.classid = 'pg_class'::regclass`, 'e.classid = d.classoid')}`

const LABELS = `
  select 'security label', format('%s %s by %s', o.type, o.identity, d.provider), d.label
  from pg_seclabel d, lateral pg_identify_object(d.classoid, d.objoid, d.objsubid) o`

/** Since 15 a table of a publication may have a condition and a list of columns. */
function publications(major: number): string {
  const more =
    major >= 15
      ? `pg_get_expr(r.prqual, r.prrelid), (select string_agg(quote_ident(a.attname), ' ' order by a.attnum)
    from pg_attribute a where a.attrelid = r.prrelid and a.attnum = any (r.prattrs::int2[]))`
      : `null, null`
  return `
    select 'publication', format('%I', p.pubname), format('owner %I, all %s, insert %s, update %s, delete %s, truncate %s, root %s',
      pg_get_userbyid(p.pubowner), p.puballtables, p.pubinsert, p.pubupdate, p.pubdelete, p.pubtruncate, p.pubviaroot) from pg_publication p
    union all select 'publication table', format('%s in %I', r.prrelid::regclass, p.pubname), format('where %s, columns %s', ${more})
    from pg_publication_rel r join pg_publication p on p.oid = r.prpubid
    ${
      major >= 15
        ? `union all select 'publication schema', format('%I in %I', n.nspname, p.pubname), '' from pg_publication_namespace s
    join pg_namespace n on n.oid = s.pnnspid join pg_publication p on p.oid = s.pnpubid`
        : ''
    }`
}
