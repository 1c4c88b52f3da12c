"""What the schema editor cannot say: append-only triggers, the entry's end with its photo, the text index.

SQLite rebuilds a table when it is altered and drops its triggers: a later migration that alters one of these tables
must run `create` again. tests/searchapp/test_triggers.py notices when one forgot.
"""

from django.db import migrations

SQLITE = [
    """CREATE TRIGGER gallery_entry_no_update BEFORE UPDATE ON searchapp_galleryentry
       BEGIN SELECT RAISE(ABORT, 'gallery entries are append-only'); END""",
    """CREATE TRIGGER gallery_entry_no_delete BEFORE DELETE ON searchapp_galleryentry
       WHEN EXISTS (SELECT 1 FROM searchapp_itemimage WHERE id = OLD.image_id)
       BEGIN SELECT RAISE(ABORT, 'a gallery entry is deleted only with its photo'); END""",
    """CREATE TRIGGER item_image_takes_its_entries AFTER DELETE ON searchapp_itemimage
       BEGIN DELETE FROM searchapp_galleryentry WHERE image_id = OLD.id; END""",
    """CREATE TRIGGER audit_no_update BEFORE UPDATE OF action, subject, "before", "after", reason, created_at
       ON searchapp_auditevent BEGIN SELECT RAISE(ABORT, 'the audit log is append-only'); END""",
    """CREATE TRIGGER audit_no_delete BEFORE DELETE ON searchapp_auditevent
       BEGIN SELECT RAISE(ABORT, 'the audit log is append-only'); END""",
    """CREATE VIRTUAL TABLE searchapp_item_text USING fts5(
         search_text, content='searchapp_item', content_rowid='id',
         tokenize="porter unicode61 remove_diacritics 2")""",
    """CREATE TRIGGER item_text_insert AFTER INSERT ON searchapp_item BEGIN
         INSERT INTO searchapp_item_text(rowid, search_text) VALUES (NEW.id, NEW.search_text); END""",
    """CREATE TRIGGER item_text_delete AFTER DELETE ON searchapp_item BEGIN
         INSERT INTO searchapp_item_text(searchapp_item_text, rowid, search_text)
         VALUES ('delete', OLD.id, OLD.search_text); END""",
    """CREATE TRIGGER item_text_update AFTER UPDATE OF search_text ON searchapp_item BEGIN
         INSERT INTO searchapp_item_text(searchapp_item_text, rowid, search_text)
         VALUES ('delete', OLD.id, OLD.search_text);
         INSERT INTO searchapp_item_text(rowid, search_text) VALUES (NEW.id, NEW.search_text); END""",
]

POSTGRESQL = [
    """CREATE FUNCTION searchapp_refuse() RETURNS trigger LANGUAGE plpgsql AS
       $$ BEGIN RAISE EXCEPTION '%', TG_ARGV[0] USING ERRCODE = 'restrict_violation'; END $$""",
    """CREATE TRIGGER gallery_entry_no_update BEFORE UPDATE ON searchapp_galleryentry
       FOR EACH ROW EXECUTE FUNCTION searchapp_refuse('gallery entries are append-only')""",
    """CREATE FUNCTION searchapp_entry_delete() RETURNS trigger LANGUAGE plpgsql AS
       $$ BEGIN
         IF EXISTS (SELECT 1 FROM searchapp_itemimage WHERE id = OLD.image_id) THEN
           RAISE EXCEPTION 'a gallery entry is deleted only with its photo' USING ERRCODE = 'restrict_violation';
         END IF;
         RETURN OLD;
       END $$""",
    """CREATE TRIGGER gallery_entry_no_delete BEFORE DELETE ON searchapp_galleryentry
       FOR EACH ROW EXECUTE FUNCTION searchapp_entry_delete()""",
    """CREATE FUNCTION searchapp_image_delete() RETURNS trigger LANGUAGE plpgsql AS
       $$ BEGIN DELETE FROM searchapp_galleryentry WHERE image_id = OLD.id; RETURN NULL; END $$""",
    """CREATE TRIGGER item_image_takes_its_entries AFTER DELETE ON searchapp_itemimage
       FOR EACH ROW EXECUTE FUNCTION searchapp_image_delete()""",
    """CREATE TRIGGER audit_no_update BEFORE UPDATE OF action, subject, "before", "after", reason, created_at
       ON searchapp_auditevent FOR EACH ROW EXECUTE FUNCTION searchapp_refuse('the audit log is append-only')""",
    """CREATE TRIGGER audit_no_delete BEFORE DELETE ON searchapp_auditevent
       FOR EACH ROW EXECUTE FUNCTION searchapp_refuse('the audit log is append-only')""",
    """CREATE INDEX searchapp_item_text ON searchapp_item USING gin (to_tsvector('english', search_text))""",
]


def create(apps, schema_editor):
    statements = SQLITE if schema_editor.connection.vendor == "sqlite" else POSTGRESQL
    with schema_editor.connection.cursor() as cursor:
        for statement in statements:
            cursor.execute(statement)


def first_rows(apps, schema_editor):
    apps.get_model("searchapp", "GalleryCounter").objects.get_or_create(id=1, defaults={"value": 0})
    apps.get_model("auth", "Group").objects.get_or_create(name="operators")


class Migration(migrations.Migration):
    dependencies = [("searchapp", "0001_initial"), ("auth", "0012_alter_user_first_name_max_length")]
    operations = [
        migrations.RunPython(create, migrations.RunPython.noop),
        migrations.RunPython(first_rows, migrations.RunPython.noop),
    ]
