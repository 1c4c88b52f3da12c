import django.db.models.deletion
from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [
        ("searchapp", "0003_learning"),
    ]

    operations = [
        migrations.AddField(
            model_name="countedentry",
            name="made_as",
            field=models.ForeignKey(
                blank=True,
                null=True,
                on_delete=django.db.models.deletion.SET_NULL,
                related_name="+",
                to="searchapp.category",
            ),
        ),
    ]
