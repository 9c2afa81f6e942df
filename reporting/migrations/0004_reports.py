"""The roles get their rights to reports; the roll-ups remember where they began."""

from importlib import import_module

from django.db import migrations, models


def make_roles(apps, schema_editor):
    import_module("workflow.migrations.0003_roles").make_roles(apps, schema_editor)


class Migration(migrations.Migration):
    dependencies = [
        ("reporting", "0001_figures"),
        ("workflow", "0008_hear_and_write"),
    ]

    operations = [
        migrations.AddField("rollupcursor", "first_id", models.BigIntegerField(null=True)),
        migrations.RunPython(make_roles, migrations.RunPython.noop),
    ]
